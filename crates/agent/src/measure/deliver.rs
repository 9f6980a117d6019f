//! One delivery to one receiver. It ends within a bound; whether it is tried again is decided elsewhere.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use model::Alerts;
use monitor::alert::{Due, Receiver, payload};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error as TlsError, RootCertStore};

/// A receiver that takes longer did not get it, as far as we know.
const WITHIN: Duration = Duration::from_secs(10);
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
/// Of an answer so much is read, to say why it was a no.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
const TOKEN_BYTES_MAX: u64 = 16 * 1024;
/// Where systems keep the authorities that everybody trusts.
const SYSTEM_AUTHORITIES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Why a receiver was not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("`{url}` is not an address")]
    Address { url: String },
    #[error("failed to read the token in `{}`", path.display())]
    Token { path: PathBuf, source: io::Error },
    #[error("failed to read authorities from `{}`: {problem}", path.display())]
    Authorities { path: PathBuf, problem: String },
    #[error("failed to connect to {to}")]
    Connect { to: String, source: io::Error },
    #[error("{to} is not trusted: {problem}")]
    Untrusted { to: String, problem: String },
    #[error("failed to send")]
    Send(#[source] hyper::Error),
    #[error("it answered {status}: {text}")]
    Refused { status: StatusCode, text: String },
    #[error("failed to run `{program}`")]
    Run { program: String, source: io::Error },
    #[error("`{program}` ended with {status}")]
    Ended {
        program: String,
        status: std::process::ExitStatus,
    },
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
}

/// Tells a receiver.
pub(super) async fn deliver(cluster: &str, alerts: &Alerts, due: &Due) -> Result<(), Error> {
    let bound = match due.receiver {
        Receiver::Command => COMMAND_WITHIN,
        _ => WITHIN,
    };
    let sent = async {
        match &due.receiver {
            Receiver::Webhook(url) => post(url, payload::webhook(cluster, &due.alerts).to_string(), alerts).await,
            Receiver::Alertmanager(url) => {
                let url = format!("{}/api/v2/alerts", url.trim_end_matches('/'));
                post(&url, payload::alertmanager(&due.alerts).to_string(), alerts).await
            }
            Receiver::Command => run(&alerts.command, payload::webhook(cluster, &due.alerts).to_string()).await,
        }
    };
    tokio::time::timeout(bound, sent)
        .await
        .unwrap_or(Err(Error::Late(bound)))
}

async fn post(url: &str, body: String, alerts: &Alerts) -> Result<(), Error> {
    let no_address = || Error::Address { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| no_address())?;
    let secure = uri.scheme_str() == Some("https");
    let authority = uri.authority().ok_or_else(no_address)?;
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let to = format!("{host}:{port}");
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path)
        .header("host", authority.as_str())
        .header("content-type", "application/json")
        .header("user-agent", "understudy");
    if let Some(token) = token(alerts).await? {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|_| no_address())?;
    let connect = |source| Error::Connect { to: to.clone(), source };
    let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(connect)?;
    if !secure {
        return send(tcp, request).await;
    }
    let name = ServerName::try_from(host.clone()).map_err(|_| no_address())?;
    let path = authorities_file(alerts);
    let tls = TlsConnector::from(Arc::new(authorities(&path)?));
    let refused = |source: io::Error| match distrust(&source, &host, &path) {
        Some(problem) => Error::Untrusted {
            to: to.clone(),
            problem,
        },
        None => connect(source),
    };
    send(tls.connect(name, tcp).await.map_err(refused)?, request).await
}

/// What is wrong with the other side, if it is who it is that is in doubt, and what mends it.
fn distrust(error: &io::Error, host: &str, authorities: &Path) -> Option<String> {
    use CertificateError as Wrong;
    let error = error.get_ref()?.downcast_ref::<TlsError>()?;
    let problem = match error {
        // Of an authority of the same name as ours, which is another one, the signature is wrong.
        TlsError::InvalidCertificate(Wrong::UnknownIssuer | Wrong::BadSignature) => format!(
            "no authority in `{}` signed its certificate; `alerts.ca_file` names a file with the one that did",
            authorities.display()
        ),
        TlsError::InvalidCertificate(Wrong::NotValidForName | Wrong::NotValidForNameContext { .. }) => {
            format!("its certificate is not for `{host}`: address it by a name that is in it, or give it another one")
        }
        TlsError::InvalidCertificate(Wrong::Expired | Wrong::ExpiredContext { .. }) => {
            "its certificate has expired: it needs a new one".into()
        }
        TlsError::InvalidCertificate(Wrong::NotValidYet | Wrong::NotValidYetContext { .. }) => {
            "its certificate is not valid yet: is the clock of this machine right?".into()
        }
        TlsError::InvalidCertificate(other) => format!("its certificate is not good: {other}"),
        TlsError::InvalidMessage(_) => "it does not answer in TLS: is its address one of `http://`?".into(),
        _ => return None,
    };
    Some(problem)
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(Error::Send)?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(Error::Send)?;
    let status = answer.status();
    let text = match Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(_) => String::new(),
    };
    connection.abort();
    if status.is_success() {
        return Ok(());
    }
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(200).collect();
    Err(Error::Refused { status, text })
}

/// The token of the file, read anew each time: it may have been renewed.
async fn token(alerts: &Alerts) -> Result<Option<String>, Error> {
    let Some(path) = alerts.token_file.as_ref().map(PathBuf::from) else {
        return Ok(None);
    };
    let read = async {
        if tokio::fs::metadata(&path).await?.len() > TOKEN_BYTES_MAX {
            return Err(io::Error::other("it is too large for a token"));
        }
        let text = tokio::fs::read_to_string(&path).await?;
        let token = text.trim().to_owned();
        if token.is_empty() || token.chars().any(|c| !c.is_ascii_graphic()) {
            return Err(io::Error::other("it must hold one word of printable characters"));
        }
        Ok(token)
    };
    match read.await {
        Ok(token) => Ok(Some(token)),
        Err(source) => Err(Error::Token { path, source }),
    }
}

/// By which authorities `https` is judged.
fn authorities_file(alerts: &Alerts) -> PathBuf {
    let named = alerts.ca_file.as_ref().map(PathBuf::from);
    let system = || SYSTEM_AUTHORITIES.iter().map(PathBuf::from).find(|path| path.exists());
    named
        .or_else(system)
        .unwrap_or_else(|| PathBuf::from(SYSTEM_AUTHORITIES[0]))
}

fn authorities(path: &Path) -> Result<ClientConfig, Error> {
    let failed = |problem: String| Error::Authorities {
        path: path.into(),
        problem,
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if roots.is_empty() {
        return Err(failed("there is none in it".into()));
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn run(command: &[String], body: String) -> Result<(), Error> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let failed = |source| Error::Run {
        program: program.clone(),
        source,
    };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read is judged by its exit code like any other.
        let _ = stdin.write_all(body.as_bytes()).await;
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Ended {
        program: program.clone(),
        status,
    })
}

#[cfg(test)]
mod tests;
