
pub mod certs;
