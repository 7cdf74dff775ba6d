//! `Link` headers of a CA (RFC 8288).

use crate::client::Answer;

/// Links of one relation that are read.
const MOST: usize = 8;

/// URLs of `Link` headers with a relation (RFC 8288); commas inside of `<>` do not part them.
pub(super) fn links(answer: &Answer, relation: &str) -> Vec<Box<str>> {
    let mut found = Vec::new();
    for value in answer.headers.get_all(http::header::LINK).iter().filter_map(|value| value.to_str().ok()) {
        for part in value.split('<').skip(1) {
            let Some((url, parameters)) = part.split_once('>') else { continue };
            let mut words = parameters.split([';', ',']).filter_map(|word| word.trim().split_once('='));
            let is_it = |(name, text): (&str, &str)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && text.trim().trim_matches('"').split_whitespace().any(|one| one.eq_ignore_ascii_case(relation))
            };
            if words.any(is_it) && found.len() < MOST {
                found.push(url.trim().into());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn links_by_relation() {
        let mut headers = HeaderMap::new();
        for value in [
            r#"<https://ca/dir>;rel="index""#,
            r#"<https://ca/cert/1/1?a,b>;rel="alternate", <https://ca/cert/1/2>; title="x"; rel=Alternate"#,
            r#"<https://ca/cert/up>;rel="up""#,
            "broken",
        ] {
            headers.append(http::header::LINK, value.parse().unwrap());
        }
        let answer = Answer { status: StatusCode::OK, headers, body: bytes::Bytes::new() };
        assert_eq!(
            links(&answer, "alternate"),
            [Box::from("https://ca/cert/1/1?a,b"), Box::from("https://ca/cert/1/2")]
        );
        assert_eq!(links(&answer, "next"), Vec::<Box<str>>::new());
    }
}
