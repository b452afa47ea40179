//! Requests of `object_store` through hyper and rustls, as the other parts of the program make theirs. Proxies are not
//! used.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use truing_types::with_causes;

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long the head of an answer may take, after the request was sent or while it is.
const ANSWER_TIME: Duration = Duration::from_secs(180);
const IDLE_TIME: Duration = Duration::from_secs(30);

/// Makes clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connector;

#[derive(Debug)]
struct Service {
    client: Client<HttpsConnector<TcpConnector>, HttpRequestBody>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let mut connector = TcpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIME));
        connector.enforce_http(false);
        let builder = HttpsConnectorBuilder::new().with_webpki_roots();
        let allows_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        let builder = match allows_http.as_deref() {
            Some("true") => builder.https_or_http(),
            _ => builder.https_only(),
        };
        let connector = builder.enable_http1().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .build(connector);
        Ok(HttpClient::new(Service { client }))
    }
}

impl HttpService for Service {
    // What `#[async_trait]` makes of `async fn call`.
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let answer = tokio::time::timeout(ANSWER_TIME, self.client.request(request)).await;
            let answer = answer.map_err(|late| HttpError::new(HttpErrorKind::Timeout, late))?;
            let (head, body) = answer.map_err(of_client)?.into_parts();
            let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
            Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
        })
    }
}

/// An error of a request, with the kind by which `object_store` decides whether to try again.
fn of_client(error: Error) -> HttpError {
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
    // The message of hyper's client leaves out the cause.
    HttpError::new(kind, io::Error::other(with_causes(&error)))
}
