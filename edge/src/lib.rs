pub mod certs;
pub mod proxy;
