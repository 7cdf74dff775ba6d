//! Whether a password is the one of a hash. In: both. Out: yes or no, in a time that does not tell how much of it was right.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use edge_config::policy::PasswordHash;
use md5::{Digest as _, Md5};

/// Whether an answer takes so long that a worker must not wait for it (milliseconds, where the others take microseconds).
pub fn is_costly(hash: &PasswordHash) -> bool {
    matches!(hash, PasswordHash::Apr1 { .. } | PasswordHash::Bcrypt(_))
}

pub fn is_right(hash: &PasswordHash, password: &[u8]) -> bool {
    match hash {
        PasswordHash::Sha1 { digest: expected, salt } => {
            let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            context.update(password);
            context.update(salt);
            verify_slices_are_equal(context.finish().as_ref(), expected).is_ok()
        }
        // Digests are compared, so that not even the length is told.
        PasswordHash::Plain(expected) => {
            let of = |text: &[u8]| digest::digest(&digest::SHA256, text);
            verify_slices_are_equal(of(password).as_ref(), of(expected).as_ref()).is_ok()
        }
        PasswordHash::Apr1 { salt, hash } => verify_slices_are_equal(&apr1(password, salt), hash).is_ok(),
        PasswordHash::Bcrypt(text) => bcrypt::verify(password, text).unwrap_or(false),
    }
}

/// The letters of crypt(3), six bits each.
const LETTERS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Poul-Henning Kamp's MD5 scheme under Apache's name: a digest that depends on password, salt and the bits of the length,
/// then a thousand rounds over it in an order by 2, 3 and 7; the bytes leave in a shuffled order.
fn apr1(password: &[u8], salt: &[u8]) -> [u8; 22] {
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut first = Md5::new().chain_update(password).chain_update(b"$apr1$").chain_update(salt);
    for block in password.chunks(16) {
        first.update(inner.get(..block.len()).unwrap_or_default());
    }
    let mut bits = password.len();
    while bits > 0 {
        match (bits & 1, password.first()) {
            (0, Some(letter)) => first.update([*letter]),
            _ => first.update([0]),
        }
        bits >>= 1;
    }
    let mut last = first.finalize();
    for round in 0..1000_u32 {
        let mut next = Md5::new();
        if round & 1 == 1 {
            next.update(password)
        } else {
            next.update(last)
        }
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        if round & 1 == 1 {
            next.update(last)
        } else {
            next.update(password)
        }
        last = next.finalize();
    }
    let mut out = [0; 22];
    let groups = [(0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)];
    let mut letters = out.iter_mut();
    let mut put = |mut value: u32, count: usize| {
        for letter in letters.by_ref().take(count) {
            *letter = LETTERS[(value & 63) as usize];
            value >>= 6;
        }
    };
    for (high, middle, low) in groups {
        put(u32::from(last[high]) << 16 | u32::from(last[middle]) << 8 | u32::from(last[low]), 4);
    }
    put(u32::from(last[11]), 2);
    out
}

#[cfg(test)]
mod tests {
    use edge_config::policy::Htpasswd;

    use super::*;

    #[test]
    fn known_hashes() {
        // Written by openssl and by libcrypt.
        for (line, password) in [
            ("a:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "password"),
            ("a:{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=", ""),
            ("a:{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0", "secret"),
            ("a:{PLAIN}p w", "p w"),
            ("a:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.", "password"),
            ("a:$apr1$8charsal$p0CQ0M2PTonrjmQL150nw1", "a much longer password than sixteen"),
            ("a:$2y$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu", "password"),
        ] {
            let users = Htpasswd::parse(line.as_bytes()).unwrap();
            let hash = users.get("a").unwrap();
            assert!(is_right(hash, password.as_bytes()), "{line}");
            assert!(!is_right(hash, b"passwore") && !is_right(hash, format!("{password}1").as_bytes()), "{line}");
        }
    }
}
