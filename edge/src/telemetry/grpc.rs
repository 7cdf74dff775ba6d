//! OTLP over gRPC. The message is bytes already, and leaves as it is.

use std::error::Error;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use edge_config::settings::Collector;
use http::uri::PathAndQuery;
use prost::Message as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::exporter::{Fault, said};
use super::files::Fields;
use super::otlp::Response;

const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const LARGEST: usize = 64 << 10;
const AWAKE: Duration = Duration::from_secs(10);

pub struct Client {
    grpc: tonic::client::Grpc<Channel>,
    timeout: Duration,
}

impl Client {
    pub fn new(collector: &Collector, ca: &[u8]) -> Result<Self, Fault> {
        let fault = |error: &dyn Error| Fault::passing(causes(error));
        let mut endpoint = Endpoint::from_shared(collector.endpoint.clone())
            .map_err(|error| fault(&error))?
            .connect_timeout(collector.timeout.min(Duration::from_secs(5)))
            .http2_keep_alive_interval(AWAKE)
            .keep_alive_timeout(AWAKE);
        if collector.endpoint.starts_with("https://") {
            let tls = match ca {
                [] => ClientTlsConfig::new().with_native_roots(),
                pem => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            };
            endpoint = endpoint.tls_config(tls).map_err(|error| fault(&error))?;
        }
        let grpc = tonic::client::Grpc::new(endpoint.connect_lazy()).max_decoding_message_size(LARGEST);
        Ok(Self { grpc, timeout: collector.timeout })
    }

    pub async fn send(&mut self, message: Bytes, fields: Fields) -> Result<Response, Fault> {
        let mut request = Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(fields.into_iter().collect());
        let call = async {
            self.grpc.ready().await.map_err(|error| Fault::passing(causes(&error)))?;
            let answer = self.grpc.unary(request, PathAndQuery::from_static(METHOD), Whole).await;
            answer.map(tonic::Response::into_inner).map_err(|status| of_status(&status))
        };
        match tokio::time::timeout(self.timeout, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::passing(format!("no answer within {} s", self.timeout.as_secs_f32()))),
        }
    }
}

fn of_status(status: &Status) -> Fault {
    let text = match status.source() {
        // What was made of a fault below it: its message is "transport error".
        Some(source) => causes(source),
        None => said(status.message().as_bytes()),
    };
    let why = format!("{:?}: {text}", status.code());
    match status.code() {
        // OTLP, "Failures"; of the others it says that the message must be dropped.
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Fault::passing(why),
        // A connection that breaks off, or an answer that is no gRPC.
        Code::Unknown if status.source().is_some() => Fault::passing(why),
        _ => Fault::lasting(why),
    }
}

/// An error and what it was caused by, each said once.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    said(text.as_bytes())
}

/// Bytes out, a response in.
#[derive(Debug, Clone, Copy)]
struct Whole;

impl Codec for Whole {
    type Encode = Bytes;
    type Decode = Response;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Whole {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Whole {
    type Item = Response;
    type Error = Status;

    fn decode(&mut self, answer: &mut DecodeBuf<'_>) -> Result<Option<Response>, Status> {
        let bytes = answer.copy_to_bytes(answer.remaining());
        Response::decode(bytes).map(Some).map_err(|_| Status::internal("the answer is no OTLP"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::exporter::Again;
    use super::*;

    #[test]
    fn what_is_worth_another_try() {
        for (code, expected) in [
            (Code::Unavailable, Again::After(None)),
            (Code::DeadlineExceeded, Again::After(None)),
            (Code::Unauthenticated, Again::No),
            (Code::InvalidArgument, Again::No),
            (Code::Unimplemented, Again::No),
            (Code::ResourceExhausted, Again::No),
        ] {
            let fault = of_status(&Status::new(code, "words\nof it"));
            assert_eq!((fault.again, fault.why), (expected, format!("{code:?}: words of it")));
        }
    }
}
