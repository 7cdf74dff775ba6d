//! How Edge tells the network about its VIPs by BGP: a speaker that drives GoBGP, its child or somebody else's.
//!
//! In flows the whole wanted set ([`Wanted`]): who we are, the peers with their passwords, every prefix with what is
//! told of it to whom and whether it may be told now. Out flows what is really so ([`Observed`]): the engine, each
//! session with the reason why it is down, and for each prefix and peer whether the engine's adj-out holds it.
//! What is to be done about the difference is [`plan`]: pure, a function of both. Nothing here decides whether a VIP may
//! be announced, touches an address or route of the machine, or prints a password.
//!
//! Beside it, without any I/O: the election of [`vrrp`], the frames of ARP and NDP in [`l2`], and [`bfd`].
//! Standards: RFC 4271, 4760, 1997, 8092, 8326, 4724, 5082, 2385 as far as GoBGP is told about them; RFC 9568; RFC 826,
//! 5227, 4861 and 4862; RFC 5880, 5881 and 5883.

pub mod bfd;
pub mod child;
pub mod diagnose;
pub mod gobgp;
pub mod l2;
pub mod observed;
pub mod own;
pub mod permit;
pub mod plan;
pub mod speaker;
pub mod vrrp;
pub mod wanted;

pub use observed::{EngineSeen, EngineState, Observed, PeerSeen, PrefixSeen, SessionState, Told};
pub use permit::Permit;
pub use speaker::{Speaker, Stopped};
pub use wanted::{PeerPassword, Secret, Tell, Wanted, WantedPeer, WantedPrefix};
