//! One request to the collector, over gRPC or over HTTP.

use std::error::Error as _;
use std::fmt;

use base64::Engine as _;
use http::{HeaderMap, StatusCode};
use kiln_proto::otlp_trace::trace_service_client::TraceServiceClient;
use kiln_proto::otlp_trace::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message as _;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use crate::{Error, Protocol, Settings};

/// Why spans weren't taken.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// It may go better later.
    Passing(String),
    /// It won't.
    Lasting(String),
}

impl Failure {
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Self::Lasting(_))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Passing(words) | Self::Lasting(words)) = self;
        f.write_str(words)
    }
}

/// Sends one request, within the time that the settings give it.
#[async_trait::async_trait]
pub(crate) trait Transport: Send {
    /// Sends spans; gives the collector's words about those that it didn't take.
    async fn send(&mut self, request: ExportTraceServiceRequest)
    -> Result<Option<String>, Failure>;
}

/// Nothing is connected yet.
pub(crate) fn open(settings: &Settings) -> Result<Box<dyn Transport>, Error> {
    Ok(match settings.protocol {
        Protocol::Grpc => Box::new(Grpc::open(settings)?),
        Protocol::Http => Box::new(Http::open(settings)?),
    })
}

struct Grpc {
    client: TraceServiceClient<Channel>,
    headers: MetadataMap,
}

impl Grpc {
    fn open(settings: &Settings) -> Result<Self, Error> {
        let wrong = |source| Error::Grpc {
            endpoint: settings.endpoint.clone(),
            source,
        };
        let mut endpoint = Endpoint::from_shared(settings.endpoint.clone())
            .map_err(wrong)?
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout);
        if settings.endpoint.starts_with("https:") {
            let mut tls = ClientTlsConfig::new().ca_certificates(match &settings.authority {
                Some(authority) => vec![Certificate::from_pem(authority)],
                None => of_this_system(),
            });
            if let Some((certificate, key)) = &settings.identity {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            endpoint = endpoint.tls_config(tls).map_err(wrong)?;
        }
        Ok(Self {
            client: TraceServiceClient::new(endpoint.connect_lazy()),
            headers: MetadataMap::from_headers(settings.headers.clone()),
        })
    }
}

/// The authorities that this system trusts.
fn of_this_system() -> Vec<Certificate> {
    let pem = |der: &[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    let found = rustls_native_certs::load_native_certs().certs;
    found
        .iter()
        .map(|one| Certificate::from_pem(pem(one)))
        .collect()
}

#[async_trait::async_trait]
impl Transport for Grpc {
    async fn send(
        &mut self,
        request: ExportTraceServiceRequest,
    ) -> Result<Option<String>, Failure> {
        let mut request = Request::new(request);
        *request.metadata_mut() = self.headers.clone();
        match self.client.export(request).await {
            Ok(response) => Ok(rejected(response.into_inner())),
            Err(status) => Err(of_status(&status)),
        }
    }
}

fn of_status(status: &Status) -> Failure {
    let mut words = status.message().to_owned();
    let mut source = status.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss
        // A connection that broke off.
        | Code::Unknown => Failure::Passing(words),
        code => Failure::Lasting(format!("{code}: {words}")),
    }
}

struct Http {
    client: reqwest::Client,
    endpoint: String,
    headers: HeaderMap,
}

impl Http {
    fn open(settings: &Settings) -> Result<Self, Error> {
        let wrong = |source| Error::Http {
            endpoint: settings.endpoint.clone(),
            source,
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("kilnd/", env!("CARGO_PKG_VERSION")))
            .timeout(settings.timeout);
        if let Some(authority) = &settings.authority {
            let authorities = reqwest::Certificate::from_pem_bundle(authority).map_err(wrong)?;
            builder = builder.tls_built_in_root_certs(false);
            for authority in authorities {
                builder = builder.add_root_certificate(authority);
            }
        }
        if let Some((certificate, key)) = &settings.identity {
            let pem = [certificate.as_slice(), b"\n", key].concat();
            builder = builder.identity(reqwest::Identity::from_pem(&pem).map_err(wrong)?);
        }
        Ok(Self {
            client: builder.build().map_err(wrong)?,
            endpoint: settings.endpoint.clone(),
            headers: settings.headers.clone(),
        })
    }
}

#[async_trait::async_trait]
impl Transport for Http {
    async fn send(
        &mut self,
        request: ExportTraceServiceRequest,
    ) -> Result<Option<String>, Failure> {
        let response = self
            .client
            .post(&self.endpoint)
            .headers(self.headers.clone())
            .header(http::header::CONTENT_TYPE, "application/x-protobuf")
            .body(request.encode_to_vec())
            .send()
            .await
            .map_err(|error| Failure::Passing(words(&error)))?;
        match response.status() {
            status if status.is_success() => {
                // A collector that says nothing more has taken all.
                let body = response.bytes().await.unwrap_or_default();
                let response = ExportTraceServiceResponse::decode(body);
                Ok(rejected(response.unwrap_or_default()))
            }
            status @ (StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT) => Err(Failure::Passing(status.to_string())),
            status => Err(Failure::Lasting(status.to_string())),
        }
    }
}

fn words(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}

fn rejected(response: ExportTraceServiceResponse) -> Option<String> {
    let partial = response.partial_success?;
    let says_something = partial.rejected_spans > 0 || !partial.error_message.is_empty();
    says_something.then(|| {
        format!(
            "{} spans rejected: {}",
            partial.rejected_spans, partial.error_message
        )
    })
}
