//! The files of a collector: fields that go with every request, which may be credentials, and CA certificates. They are
//! read before each request, so that new ones need no reload. What they say is never printed.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use http::{HeaderName, HeaderValue};

const LARGEST: u64 = 256 << 10;

pub type Fields = Vec<(HeaderName, HeaderValue)>;

/// A whole file, or why not in one line.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let file = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut text));
    match file {
        Ok(_) if text.len() as u64 > LARGEST => Err(format!("{}: is longer than {LARGEST} bytes", path.display())),
        Ok(_) => Ok(text),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Lines `Name: value`; empty ones and those that begin with `#` say nothing.
pub fn fields(path: &Path) -> Result<Fields, String> {
    let text = read(path)?;
    let mut fields = Fields::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let wrong = |what: &str| format!("{}:{}: {what}", path.display(), number + 1);
        let colon = line.iter().position(|byte| *byte == b':').ok_or_else(|| wrong("expected \"Name: value\""))?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| wrong("the name is no field name"))?;
        // They frame the message, or name where it goes.
        if ["content-type", "content-length", "content-encoding", "transfer-encoding", "connection", "host", "te"]
            .contains(&name.as_str())
        {
            return Err(wrong(&format!("{name} is Edge's own")));
        }
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        let mut value = value.map_err(|_| wrong("the value is no field value"))?;
        value.set_sensitive(true);
        fields.push((name, value));
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            fields(&path).map_err(|error| error.split_once("headers").unwrap().1.to_owned())
        };
        let good = read("# of the collector\nAuthorization: Bearer a:b\r\n\nx-scope-orgid:  one \n").unwrap();
        let good: Vec<_> = good.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(good, [("authorization", &b"Bearer a:b"[..]), ("x-scope-orgid", b"one")]);
        for (text, expected) in [
            ("\nsecret", ":2: expected \"Name: value\""),
            ("a b: secret", ":1: the name is no field name"),
            ("a: sec\x01ret", ":1: the value is no field value"),
            ("Content-Type: secret", ":1: content-type is Edge's own"),
        ] {
            assert_eq!(read(text).unwrap_err(), expected);
        }
        let large = "#".repeat(usize::try_from(LARGEST).unwrap() + 1);
        assert_eq!(read(&large).unwrap_err(), ": is longer than 262144 bytes");
        assert!(fields(&folder.path().join("none")).unwrap_err().contains("No such file"));
    }
}
