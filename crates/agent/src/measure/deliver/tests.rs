//! Deliveries over `https` to a real TLS server, by a private authority.

use super::{Error, deliver};
use crate::executor::chain;
use model::Alerts;
use monitor::alert::{Due, Receiver};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

#[tokio::test]
async fn a_webhook_with_a_certificate_of_a_private_authority_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours.pem");
    let (port, mut heard) = serve(&ours, "127.0.0.1", 0).await;
    let sent = send(&format!("https://127.0.0.1:{port}/hook?of=shop"), Some(&ours.file)).await;
    assert!(sent.is_ok(), "{sent:?}");
    let request = heard.recv().await.unwrap();
    assert!(request.starts_with("POST /hook?of=shop HTTP/1.1\r\n"), "{request}");
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["groupLabels"]["cluster"], "shop", "{body}");
}

#[tokio::test]
async fn a_certificate_that_is_not_right_is_told_and_nothing_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours.pem");
    let other = Authority::new(folder.path(), "other.pem");
    let (port, mut heard) = serve(&ours, "127.0.0.1", 0).await;
    let url = format!("https://127.0.0.1:{port}/");

    let stranger = said(&url, &other.file).await;
    assert!(
        stranger.contains("no authority in") && stranger.contains("other.pem") && stranger.contains("`alerts.ca_file`"),
        "{stranger}"
    );

    let by_name = said(&format!("https://localhost:{port}/"), &ours.file).await;
    assert!(by_name.contains("its certificate is not for `localhost`"), "{by_name}");

    let (port, mut heard_old) = serve(&ours, "127.0.0.1", -20).await;
    let expired = said(&format!("https://127.0.0.1:{port}/"), &ours.file).await;
    assert!(expired.contains("its certificate has expired"), "{expired}");

    let (port, _plain) = plain().await;
    let no_tls = said(&format!("https://127.0.0.1:{port}/"), &ours.file).await;
    assert!(no_tls.contains("it does not answer in TLS"), "{no_tls}");

    let nothing = said(&url, &folder.path().join("gone.pem")).await;
    assert!(nothing.contains("failed to read authorities from"), "{nothing}");
    assert!(heard.try_recv().is_err() && heard_old.try_recv().is_err());
}

async fn said(url: &str, authorities: &Path) -> String {
    chain(&send(url, Some(authorities)).await.unwrap_err())
}

async fn send(url: &str, authorities: Option<&Path>) -> Result<(), Error> {
    let alerts = Alerts {
        ca_file: authorities.map(|path| path.display().to_string()),
        ..Alerts::default()
    };
    let due = Due {
        receiver: Receiver::Webhook(url.into()),
        alerts: Vec::new(),
        keep: false,
        beat: false,
    };
    deliver("shop", &alerts, &due).await
}

/// An authority that only this test knows.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let file = folder.join(name);
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            file,
        }
    }
}

/// A server over TLS that says yes to everything, and what it was asked. Its certificate is for `host`, and is good for ten years from `from`
/// (years from now) on.
async fn serve(by: &Authority, host: &str, from: i64) -> (u16, mpsc::UnboundedReceiver<String>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    let year = 2026 + i32::try_from(from).unwrap();
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + 10, 1, 1);
    let certificate = params.signed_by(&key, &by.issuer).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard, hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else {
                continue;
            };
            let mut request = Vec::new();
            let mut buffer = [0_u8; 4096];
            // A head, and as much of a body as it promises.
            while !is_whole(&request) {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => request.extend_from_slice(&buffer[..read]),
                }
            }
            let _ = heard.send(String::from_utf8_lossy(&request).into_owned());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    (port, hears)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    length.is_some_and(|length: usize| body.len() >= length)
}

/// A server that knows no TLS.
async fn plain() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut buffer = [0_u8; 1024];
            let _ = tcp.read(&mut buffer).await;
            let _ = tcp
                .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    });
    (port, task)
}
