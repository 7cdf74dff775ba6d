//! Peers, what is told to them, and how their death is noticed.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::announce::{Asn, Bfd, PeerAddress, PeerAsn};
use crate::gateway::LabelSelector;
use crate::settings::defaults;
use crate::wire::GoDuration;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerSpec {
    #[serde(rename = "myASN")]
    pub my_asn: u32,
    /// 0 where `dynamicASN` says it.
    #[serde(default, rename = "peerASN")]
    pub peer_asn: u32,
    #[serde(default, rename = "localASN", skip_serializing_if = "Option::is_none")]
    pub local_asn: Option<u32>,
    /// `internal` or `external`.
    #[serde(default, rename = "dynamicASN", skip_serializing_if = "Option::is_none")]
    pub dynamic_asn: Option<String>,
    #[serde(default)]
    pub peer_address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(default = "bgp_port")]
    pub peer_port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_time: Option<String>,
    #[serde(default, rename = "routerID", skip_serializing_if = "Option::is_none")]
    pub router_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selectors: Vec<LabelSelector>,
    /// Only whether one is set: the password itself takes another way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PresentText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd_profile: Option<String>,
    #[serde(default)]
    pub enable_graceful_restart: bool,
    #[serde(default)]
    pub ebgp_multi_hop: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf: Option<String>,
    #[serde(default, rename = "disableMP")]
    pub disable_mp: bool,
    #[serde(default, rename = "dualStackAddressFamily")]
    pub dual_stack_address_family: bool,
}

fn bgp_port() -> u16 {
    179
}

/// A text that was there and was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentText;

impl Serialize for PresentText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for PresentText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|_| Self)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    #[serde(default)]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpAdvertisementSpec {
    #[serde(default = "host_length")]
    pub aggregation_length: u8,
    #[serde(default = "host_length_v6")]
    pub aggregation_length_v6: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    #[serde(default, rename = "ipAddressPools", skip_serializing_if = "Vec::is_empty")]
    pub ip_address_pools: Vec<String>,
    #[serde(default, rename = "ipAddressPoolSelectors", skip_serializing_if = "Vec::is_empty")]
    pub ip_address_pool_selectors: Vec<LabelSelector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selectors: Vec<LabelSelector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_selectors: Vec<LabelSelector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
}

impl Default for BgpAdvertisementSpec {
    fn default() -> Self {
        Self {
            aggregation_length: host_length(),
            aggregation_length_v6: host_length_v6(),
            local_pref: None,
            communities: Vec::new(),
            ip_address_pools: Vec::new(),
            ip_address_pool_selectors: Vec::new(),
            node_selectors: Vec::new(),
            service_selectors: Vec::new(),
            peers: Vec::new(),
        }
    }
}

fn host_length() -> u8 {
    32
}

fn host_length_v6() -> u8 {
    128
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommunitySpec {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<CommunityAlias>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommunityAlias {
    #[serde(default)]
    pub name: String,
    /// `65535:666` or `large:1:2:3`.
    #[serde(default)]
    pub value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdProfileSpec {
    /// Milliseconds; 300 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_interval: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transmit_interval: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect_multiplier: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo_interval: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo_mode: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive_mode: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_ttl: Option<u32>,
}

impl BgpPeerSpec {
    pub fn own_asn(&self) -> Result<Asn, String> {
        Asn::new(self.my_asn).ok_or_else(|| format!("myASN: {} is no AS number", self.my_asn))
    }

    pub fn shown_asn(&self) -> Result<Option<Asn>, String> {
        let parse = |number| Asn::new(number).ok_or_else(|| format!("localASN: {number} is no AS number"));
        self.local_asn.filter(|number| *number != 0).map(parse).transpose()
    }

    pub fn asn(&self) -> Result<PeerAsn, String> {
        match (self.peer_asn, self.dynamic_asn.as_deref().unwrap_or_default()) {
            (0, "") => Err("peerASN is missing, expected it or dynamicASN".to_owned()),
            (0, "internal") => Ok(PeerAsn::Internal),
            (0, "external") => Ok(PeerAsn::External),
            (0, other) => Err(format!("dynamicASN: unknown value {other:?}, expected internal, external")),
            (number, "") => {
                Asn::new(number).map(PeerAsn::Number).ok_or_else(|| format!("peerASN: {number} is no AS number"))
            }
            (_, _) => Err("has both peerASN and dynamicASN, expected one of them".to_owned()),
        }
    }

    pub fn address(&self) -> Result<PeerAddress, String> {
        match (self.peer_address.as_str(), self.interface.as_deref().unwrap_or_default()) {
            ("", "") => Err("peerAddress is missing, expected it or interface".to_owned()),
            ("", interface) => Ok(PeerAddress::Interface(interface.to_owned())),
            (text, "") => match text.parse::<IpAddr>() {
                Ok(address) if !address.is_unspecified() && !address.is_multicast() => {
                    Ok(PeerAddress::Address(address))
                }
                _ => Err(format!("peerAddress: {text:?} is no address of a peer")),
            },
            (_, _) => Err("has both peerAddress and interface, expected one of them".to_owned()),
        }
    }

    pub fn source(&self) -> Result<Option<IpAddr>, String> {
        let Some(text) = self.source_address.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let source: IpAddr = text.parse().map_err(|_| format!("sourceAddress: {text:?} is no IP address"))?;
        match self.address() {
            Ok(PeerAddress::Address(peer)) if peer.is_ipv4() == source.is_ipv4() => Ok(Some(source)),
            Ok(_) => Err(format!("sourceAddress: {source} is of another family than the peer")),
            // Told for itself.
            Err(_) => Ok(Some(source)),
        }
    }

    pub fn router_id(&self) -> Result<Option<Ipv4Addr>, String> {
        let parse = |text: &str| match text.parse::<Ipv4Addr>() {
            Ok(id) if !id.is_unspecified() => Ok(id),
            _ => Err(format!("routerID: {text:?} is no router id")),
        };
        self.router_id.as_deref().filter(|text| !text.is_empty()).map(parse).transpose()
    }

    /// Hold time and keepalive time. Where one is missing it follows from the other (RFC 4271 §10).
    pub fn timers(&self) -> Result<(Duration, Duration), String> {
        let hold = seconds("holdTime", self.hold_time.as_deref(), 3, 65535)?;
        let keepalive = seconds("keepaliveTime", self.keepalive_time.as_deref(), 1, 65535)?;
        let hold = hold.or(keepalive.map(|keepalive| keepalive.saturating_mul(3))).unwrap_or(defaults::HOLD_TIME);
        let keepalive = keepalive.unwrap_or_else(|| Duration::from_secs(hold.as_secs() / 3));
        if keepalive > hold {
            return Err("keepaliveTime is longer than holdTime".to_owned());
        }
        Ok((hold.min(Duration::from_secs(65535)), keepalive))
    }

    pub fn connect_retry(&self) -> Result<Duration, String> {
        let found = seconds("connectTime", self.connect_time.as_deref(), 1, 65535)?;
        Ok(found.unwrap_or(defaults::CONNECT_RETRY))
    }

    /// The Secret that is named.
    pub fn password_secret(&self) -> Option<&SecretName> {
        self.password_secret.as_ref().filter(|secret| !secret.name.is_empty())
    }

    pub fn bfd_profile(&self) -> Option<&str> {
        self.bfd_profile.as_deref().filter(|name| !name.is_empty())
    }
}

/// Whole seconds of a Go duration.
fn seconds(field: &str, text: Option<&str>, least: u64, most: u64) -> Result<Option<Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    let Some(GoDuration(found)) = GoDuration::parse(text) else {
        return Err(format!("{field}: {text:?} is no duration, expected one such as \"9s\""));
    };
    let whole = Duration::from_secs(found.as_secs());
    if !(least..=most).contains(&found.as_secs()) {
        return Err(format!("{field}: {text} is out of range, expected {least}s to {most}s"));
    }
    Ok(Some(whole))
}

impl BfdProfileSpec {
    pub fn timers(&self) -> Result<Bfd, String> {
        let within = |field: &str, value: Option<u32>, (least, most): (u32, u32), absent: u32| match value {
            None => Ok(absent),
            Some(value) if (least..=most).contains(&value) => Ok(value),
            Some(value) => Err(format!("{field}: {value} is out of range, expected {least} to {most}")),
        };
        // In milliseconds.
        let interval = |field, value| within(field, value, (10, 60_000), 300).map(u64::from).map(Duration::from_millis);
        let byte = |field, value, least, absent: u8| {
            within(field, value, (least, 255), absent.into()).map(|value| u8::try_from(value).unwrap_or(u8::MAX))
        };
        within("echoInterval", self.echo_interval, (10, 60_000), 50)?;
        Ok(Bfd {
            transmit: interval("transmitInterval", self.transmit_interval)?,
            receive: interval("receiveInterval", self.receive_interval)?,
            multiplier: byte("detectMultiplier", self.detect_multiplier, 2, defaults::BFD_MULTIPLIER)?,
            is_passive: self.passive_mode.unwrap_or(false),
            minimum_ttl: byte("minimumTtl", self.minimum_ttl, 1, defaults::BFD_MINIMUM_TTL)?,
        })
    }
}
