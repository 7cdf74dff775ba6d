//! NGINX Gateway Fabric's policies and filters (v2.6), one file for each kind. What each field means here is said in
//! docs/policies.md, and of the parts of other rooms in theirs. A field of theirs that is not here is unknown.

mod authentication;
mod client_settings;
mod proxy_settings;
mod rate_limit;
mod snippets;
mod upstream_settings;
mod values;

pub use authentication::*;
pub use client_settings::*;
pub use proxy_settings::*;
pub use rate_limit::*;
pub use snippets::*;
pub use upstream_settings::*;
pub use values::*;
