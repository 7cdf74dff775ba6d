use super::*;

fn set(records: &[&str]) -> Vec<Caa> {
    let record = |text: &&str| {
        let mut parts = text.splitn(3, ' ');
        let critical = parts.next() == Some("128");
        let tag = parts.next().unwrap().into();
        Caa { critical, tag, value: parts.next().unwrap_or_default().into() }
    };
    records.iter().map(record).collect()
}

#[test]
fn leave_by_table() {
    const ACCOUNT: &str = "https://ca/acct/1";
    let le: &[Box<str>] = &["letsencrypt.org".into(), "le.example".into()];
    let plain = Asker { identities: le, account: Some(ACCOUNT), method: "http-01", wildcard: false };
    let wild = Asker { method: "dns-01", wildcard: true, ..plain };
    let new = Asker { account: None, ..plain };
    let silent = Asker { identities: &[], ..plain };
    for (records, asker, expected) in [
        (&[][..], plain, "granted"),
        (&["0 issue letsencrypt.org"], plain, "granted"),
        (&["0 ISSUE LetsEncrypt.ORG"], plain, "granted"),
        (&["0 issue le.example"], plain, "granted"),
        (&["0 issue ca.test"], plain, "denied: issue admits ca.test"),
        (&["0 issue ca.test", "0 issue letsencrypt.org"], plain, "granted"),
        (&["0 issue a.test", "0 issue b.test"], plain, "denied: issue admits a.test, admits b.test"),
        (&["0 issue ;"], plain, "denied: issue admits no CA"),
        (&["0 issue"], plain, "denied: issue admits no CA"),
        (&["0 iodef mailto:a@b.test"], plain, "granted"),
        // issuewild says nothing about other names, and stands alone for wildcards.
        (&["0 issuewild ;"], plain, "granted"),
        (&["0 issue letsencrypt.org", "0 issuewild ;"], wild, "denied: issuewild admits no CA"),
        (&["0 issue ;", "0 issuewild letsencrypt.org"], wild, "granted"),
        (&["0 issue letsencrypt.org"], wild, "granted"),
        (&["0 issue ca.test"], wild, "denied: issue admits ca.test"),
        (
            &["128 tbs x", "0 issue letsencrypt.org"],
            plain,
            "denied: has the critical property \"tbs\" that no CA knows",
        ),
        (&["0 tbs x"], plain, "granted"),
        (&["128 issue letsencrypt.org"], plain, "granted"),
        // RFC 8657
        (&["0 issue letsencrypt.org; validationmethods=dns-01"], wild, "granted"),
        (
            &["0 issue letsencrypt.org; validationmethods=dns-01,tls-alpn-01"],
            plain,
            "denied: issue admits letsencrypt.org by dns-01,tls-alpn-01 only, not by http-01",
        ),
        (&["0 issue letsencrypt.org; accounturi=https://ca/acct/1"], plain, "granted"),
        (
            &["0 issue letsencrypt.org;accounturi=https://ca/acct/2"],
            plain,
            "denied: issue admits account https://ca/acct/2 only, not https://ca/acct/1",
        ),
        (
            &["0 issue letsencrypt.org;accounturi=https://ca/acct/2"],
            new,
            "unknown: issue admits account https://ca/acct/2 only, and ours is not known yet",
        ),
        (
            &["0 issue letsencrypt.org; accounturi=https://ca/acct/1; accounturi=https://ca/acct/1"],
            plain,
            "denied: issue has accounturi twice, which admits nobody",
        ),
        (&["0 issue letsencrypt.org; nonsense"], plain, "denied: issue has the malformed parameter \"nonsense\""),
        (&["0 issue letsencrypt.org; other=1;"], plain, "granted"),
        (
            &["0 issue letsencrypt.org"],
            silent,
            "unknown: issue admits letsencrypt.org, and this CA does not say which name it goes by",
        ),
        (&["0 issue ;"], silent, "denied: issue admits no CA"),
    ] {
        let found = match judge(&set(records), &asker) {
            Leave::Granted => "granted".into(),
            Leave::Denied(why) => format!("denied: {why}"),
            Leave::Unknown(why) => format!("unknown: {why}"),
        };
        assert_eq!(found, expected, "{records:?} for {asker:?}");
    }
}
