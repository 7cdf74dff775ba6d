//! GoBGP's gRPC API, series 3 (`apipb.GobgpApi`) and series 4 (`api.GoBgpService`).
//!
//! In flow calls of [`crate::plan`]; out flow what an engine says of itself, in our own words. The messages are both
//! series' own where they agree; [`convert`] knows where they do not. Every request has a deadline. Messages hold
//! passwords and are never printed.

pub mod client;
pub mod convert;
pub mod read;
pub mod wire;

/// The two shapes of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    Three,
    Four,
}

impl Series {
    pub fn number(self) -> u8 {
        match self {
            Self::Three => 3,
            Self::Four => 4,
        }
    }

    /// As gRPC writes it in a request's path.
    pub fn service(self) -> &'static str {
        match self {
            Self::Three => "apipb.GobgpApi",
            Self::Four => "api.GoBgpService",
        }
    }

    /// The number that this series gives to the value that begins at 0 in series 3.
    fn shift(self, value: i32) -> i32 {
        match self {
            Self::Three => value,
            Self::Four => value + 1,
        }
    }
}

#[cfg(test)]
mod tests;
