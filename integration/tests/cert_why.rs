//! `edgectl cert why`: each of the usual causes, really so, ends in one sentence that names it, and what is fine is fine.

// A failed expectation is what a test is for.
#![allow(clippy::panic, clippy::unwrap_used)]

use edge_integration::causes::{CAUSES, Causes, GOOD};
use edge_integration::lab::skip;

#[test]
fn each_cause_has_its_sentence() {
    let mut causes = match Causes::start() {
        Ok(causes) => causes,
        Err(why) => return skip("cert_why", &why),
    };
    let (text, value) = causes.why(GOOD);
    assert_eq!(value["cause"], "fine", "{text}");
    let mut wrong = Vec::new();
    for cause in CAUSES {
        let (text, value) = causes.why(cause.host);
        let sentence = text.lines().next().unwrap_or_default();
        eprintln!("{} ({}):\n  {sentence}", cause.host, cause.made);
        let (name, words) = cause.says;
        let is_so = value["cause"] == name && words.iter().all(|word| sentence.contains(word));
        if !is_so || value["sentence"].as_str() != Some(sentence) {
            wrong.push((cause.host, value["cause"].clone(), sentence.to_owned()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
