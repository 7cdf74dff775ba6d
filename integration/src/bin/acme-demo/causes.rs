//! `edgectl cert why` for names that cannot have a certificate, each for a reason that is really so.

use edge_integration::causes::{CAUSES, Causes, GOOD};

use super::{Steps, quote};

pub fn show() -> Result<(), String> {
    let steps = Steps::begin("Why a name has no certificate: one sentence, with what to do");
    let mut causes = Causes::start()?;
    let good = causes.why(GOOD);
    steps.say("one listener is as it should be, the others are not:");
    quote(&format!("edgectl cert why {GOOD}"), good.0.lines().next().unwrap_or_default());
    let mut wrong = Vec::new();
    for cause in CAUSES {
        let (text, value) = causes.why(cause.host);
        let sentence = text.lines().next().unwrap_or_default();
        println!("  {}: {}", cause.host, cause.made);
        quote(&format!("edgectl cert why {}", cause.host), sentence);
        if value["cause"] != cause.says.0 {
            wrong.push(format!("{}: {} instead of {}", cause.host, value["cause"], cause.says.0));
        }
    }
    let list = causes.lab.edged().ctl(&["cert", "list", "--all"]);
    quote("edgectl cert list --all", &list.stdout);
    if wrong.is_empty() { Ok(()) } else { Err(format!("other causes than expected: {}", wrong.join(", "))) }
}
