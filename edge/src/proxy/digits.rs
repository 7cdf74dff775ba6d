//! Numbers and addresses as text, without the formatting machinery, which costs more than all else where these are written.
//!
//! In: a number or an IPv4 address, and a place for its digits. Out: the digits, in that place.

use std::net::Ipv4Addr;

/// The decimal digits of a number.
pub fn decimal(number: u64, digits: &mut [u8; 20]) -> &[u8] {
    padded(number, 1, digits)
}

/// At least so many of them, at most 20.
pub fn padded(number: u64, width: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    let mut rest = number;
    while at > 0 && (rest > 0 || digits.len() - at < width) {
        at -= 1;
        if let Some(place) = digits.get_mut(at) {
            *place = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        }
        rest /= 10;
    }
    digits.get(at..).unwrap_or_default()
}

/// An address as it displays.
pub fn ipv4(address: Ipv4Addr, text: &mut [u8; 15]) -> &[u8] {
    let mut length = 0;
    for (index, octet) in address.octets().into_iter().enumerate() {
        let mut put = |byte| {
            if let Some(place) = text.get_mut(length) {
                *place = byte;
                length += 1;
            }
        };
        if index > 0 {
            put(b'.');
        }
        if octet >= 100 {
            put(b'0' + octet / 100);
        }
        if octet >= 10 {
            put(b'0' + octet / 10 % 10);
        }
        put(b'0' + octet % 10);
    }
    text.get(..length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for number in [0, 7, 10, 1234567890, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
        for (number, width, expected) in
            [(0, 3, "000"), (7, 3, "007"), (1234, 3, "1234"), (0, 0, ""), (5, 99, "00000000000000000005")]
        {
            assert_eq!(padded(number, width, &mut [0; 20]), expected.as_bytes());
        }
    }

    #[test]
    fn addresses() {
        for text in ["0.0.0.0", "10.9.99.100", "255.255.255.255", "192.0.2.1"] {
            assert_eq!(ipv4(text.parse().unwrap(), &mut [0; 15]), text.as_bytes());
        }
    }
}
