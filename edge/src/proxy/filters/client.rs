//! What few listeners ask of every request before it is routed: no field names with underscores, an X-Request-ID, a path
//! that is answered here. In: the listener's rules and the request. Out: what is answered instead of routing, if anything.

use edge_config::policy::{ClientRules, RequestId, Underscores};

use crate::proxy::message::RequestHead;
use crate::proxy::upstream::balance::Random;

/// Why a request does not get as far as a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    Malformed(&'static str),
    /// It asks whether we are there.
    Healthy,
}

pub fn apply(rules: &ClientRules, random: &Random, request: &mut RequestHead) -> Result<(), Instead> {
    if rules.health_path.as_deref().is_some_and(|path| path == request.path()) {
        return Err(Instead::Healthy);
    }
    let has_underscore = |name: &[u8]| name.contains(&b'_');
    match rules.underscores {
        Underscores::Pass => {}
        Underscores::Reject if request.fields.iter().any(|(name, _)| has_underscore(name)) => {
            return Err(Instead::Malformed("header name with an underscore"));
        }
        Underscores::Reject => {}
        Underscores::Drop => request.fields.remove_if(has_underscore),
    }
    match rules.request_id {
        Some(RequestId::PreserveOrGenerate) if request.fields.first(NAME).is_some_and(|id| !id.is_empty()) => {}
        Some(RequestId::Generate | RequestId::PreserveOrGenerate) => {
            request.fields.remove(NAME);
            request.fields.add(NAME, &identifier(random));
        }
        Some(RequestId::Remove) => request.fields.remove(NAME),
        None => {}
    }
    Ok(())
}

const NAME: &[u8] = b"x-request-id";

/// A UUID of version 4 (RFC 9562 §5.4).
fn identifier(random: &Random) -> [u8; 36] {
    let mut bits = (u128::from(random.next()) << 64) | u128::from(random.next());
    bits = (bits & !(0xf << 76)) | (4 << 76);
    bits = (bits & !(0x3 << 62)) | (2 << 62);
    let mut text = [b'-'; 36];
    let mut left = 128;
    for (place, digit) in text.iter_mut().enumerate() {
        if matches!(place, 8 | 13 | 18 | 23) {
            continue;
        }
        left -= 4;
        *digit = b"0123456789abcdef"[((bits >> left) & 0xf) as usize];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_path("/healthz");
        for (name, value) in fields {
            head.fields.add(name.as_bytes(), value.as_bytes());
        }
        head
    }

    #[test]
    fn fields_and_paths() {
        let random = Random::new(1);
        for (rules, field, expected) in [
            (ClientRules::default(), "a_b", Ok(true)),
            (ClientRules { underscores: Underscores::Drop, ..ClientRules::default() }, "a_b", Ok(false)),
            (ClientRules { underscores: Underscores::Drop, ..ClientRules::default() }, "a-b", Ok(true)),
            (
                ClientRules { underscores: Underscores::Reject, ..ClientRules::default() },
                "a_b",
                Err(Instead::Malformed("header name with an underscore")),
            ),
            (ClientRules { underscores: Underscores::Reject, ..ClientRules::default() }, "a-b", Ok(true)),
            (
                ClientRules { health_path: Some("/healthz".into()), ..ClientRules::default() },
                "a",
                Err(Instead::Healthy),
            ),
            (ClientRules { health_path: Some("/health".into()), ..ClientRules::default() }, "a", Ok(true)),
        ] {
            let mut head = request(&[(field, "1")]);
            let found = apply(&rules, &random, &mut head).map(|()| head.fields.first(field.as_bytes()).is_some());
            assert_eq!(found, expected, "{rules:?} {field}");
        }
    }

    #[test]
    fn identifiers() {
        let random = Random::new(7);
        let id = |wish, given: &[(&str, &str)]| {
            let mut head = request(given);
            let rules = ClientRules { request_id: Some(wish), ..ClientRules::default() };
            apply(&rules, &random, &mut head).unwrap();
            head.fields.first(NAME).map(|id| String::from_utf8_lossy(id).into_owned())
        };
        let given = [("x-request-id", "mine")];
        assert_eq!(id(RequestId::PreserveOrGenerate, &given).as_deref(), Some("mine"));
        assert_eq!(id(RequestId::Remove, &given), None);
        let ours = id(RequestId::Generate, &given).unwrap();
        assert!(ours.len() == 36 && &ours[14..15] == "4" && "89ab".contains(&ours[19..20]), "{ours}");
        assert_ne!(id(RequestId::PreserveOrGenerate, &[]).unwrap(), ours);
    }
}
