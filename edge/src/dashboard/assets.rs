//! The files of the page, built into the program. None of them holds anything about this edge, so all may have them.

pub(super) struct Asset {
    pub kind: &'static str,
    pub text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

pub(super) const INDEX: Asset = Asset { kind: HTML, text: include_str!("assets/index.html") };
pub(super) const LOGIN: Asset = Asset { kind: HTML, text: include_str!("assets/login.html") };

pub(super) fn find(path: &str) -> Option<Asset> {
    let (kind, text) = match path {
        "/dashboard.css" => ("text/css; charset=utf-8", include_str!("assets/dashboard.css")),
        "/icon.svg" => ("image/svg+xml", include_str!("assets/icon.svg")),
        "/main.js" => (SCRIPT, include_str!("assets/main.js")),
        "/login.js" => (SCRIPT, include_str!("assets/login.js")),
        "/make.js" => (SCRIPT, include_str!("assets/make.js")),
        "/overview.js" => (SCRIPT, include_str!("assets/overview.js")),
        "/map.js" => (SCRIPT, include_str!("assets/map.js")),
        "/tables.js" => (SCRIPT, include_str!("assets/tables.js")),
        "/search.js" => (SCRIPT, include_str!("assets/search.js")),
        _ => return None,
    };
    Some(Asset { kind, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 9] = [
        "/dashboard.css",
        "/icon.svg",
        "/main.js",
        "/login.js",
        "/make.js",
        "/overview.js",
        "/map.js",
        "/tables.js",
        "/search.js",
    ];

    /// The policy refuses inline code and everything from elsewhere, and text may never become markup.
    #[test]
    fn nothing_inline_nothing_from_elsewhere_and_no_markup_from_text() {
        let texts = ALL.map(|path| (path, find(path).unwrap().text));
        let pages = [("index", INDEX.text), ("login", LOGIN.text)];
        for (name, text) in texts.into_iter().chain(pages) {
            for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
            {
                assert!(!text.contains(forbidden), "{name} has {forbidden}");
            }
            let foreign = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{name} names another host");
            assert!(!foreign.contains("@import") && !foreign.contains("url("), "{name} loads something");
        }
        for (name, text) in pages {
            assert!(!text.contains("style=") && !text.contains("<style"), "{name} has inline styles");
            for script in text.split("<script").skip(1) {
                assert!(script.contains("src=\"/") && script.contains("></script>"), "{name} has an inline script");
            }
            assert!(!text.contains(" onclick=") && !text.contains(" onload="), "{name} has inline handlers");
        }
    }

    #[test]
    fn every_module_that_is_imported_is_there() {
        for path in ALL.iter().filter(|path| path.ends_with(".js")) {
            for import in find(path).unwrap().text.split("from \"./").skip(1) {
                let name = import.split('"').next().unwrap();
                assert!(find(&format!("/{name}")).is_some(), "{path} imports {name}");
            }
        }
        for page in [INDEX.text, LOGIN.text] {
            for part in ["src=\"", "href=\""].iter().flat_map(|mark| page.split(mark).skip(1)) {
                let name = part.split('"').next().unwrap();
                assert!(name.starts_with('#') || find(name).is_some(), "{name} is not there");
            }
        }
    }
}
