//! The Gateway API v1.6.1 kinds as they are on the wire, standard and experimental channel, with the defaults of the
//! CRD schema applied while decoding: a field with a default is never absent, whichever source it came from. The
//! shapes are shared by every kind, so that one function can look at any parent or backend reference.
//! What must not happen here: judging values (see `validate` for files, the API server for its own objects).

mod backend_tls;
mod filter;
mod gateway_kind;
mod grpc;
mod http;
mod l4;
mod reference;

pub use backend_tls::*;
pub use filter::*;
pub use gateway_kind::*;
pub use grpc::*;
pub use http::*;
pub use l4::*;
pub use reference::*;

/// The API group of every kind here.
pub const GROUP: &str = "gateway.networking.k8s.io";
