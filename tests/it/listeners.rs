//! Features that need a whole server process: TLS, files that change, and the admin listener.

use std::fs;

use reqwest::{Certificate, Client, StatusCode};
use tempfile::TempDir;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    app::client,
    process::{Server, run, stdout},
    waiting::until,
};

/// A certificate for 127.0.0.1 and its key, as PEM.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn trusting(pem: &str) -> Client {
    siglip_server::tls::install_provider();
    let certificate = Certificate::from_pem(pem.as_bytes()).expect("PEM");
    Client::builder().tls_certs_only([certificate]).build().expect("a client")
}

async fn is_ready(client: &Client, server: &Server) -> bool {
    let asked = client.get(format!("{}/health/ready", server.url)).send().await;
    asked.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

#[tokio::test]
async fn tls_follows_its_files_on_both_surfaces() {
    let folder = TempDir::new().expect("a folder");
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let write = |(cert, key): &(String, String)| {
        fs::write(&key_file, key).expect("written");
        fs::write(&cert_file, cert).expect("written");
    };
    let (old, new) = (certificate(), certificate());
    write(&old);
    let (cert, key) = (cert_file.display().to_string(), key_file.display().to_string());
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--grpc-listen", "127.0.0.1:0"];
    let server = Server::start(&tls);
    assert!(server.url.starts_with("https://"), "{}", server.announcement);
    assert!(is_ready(&trusting(&old.0), &server).await);
    assert!(!is_ready(&trusting(&new.0), &server).await);

    let grpc = server.announced("gRPC").to_owned();
    let channel = tonic::transport::Channel::from_shared(grpc).expect("a URL").tls_config(
        tonic::transport::ClientTlsConfig::new()
            .ca_certificate(tonic::transport::Certificate::from_pem(&old.0)),
    );
    let channel = channel.expect("a certificate").connect().await.expect("connects");
    let check = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    assert_eq!(check.expect("answers").get_ref().status, 1);

    // The process's own probe, which does not know the certificate.
    let port = server.url.rsplit(':').next().expect("a port");
    let listen = format!("127.0.0.1:{port}");
    let probe = ["healthcheck", "--listen", &listen, "--tls-cert", &cert, "--tls-key", &key];
    assert_eq!(stdout(&run(&probe)), "ready\n");

    write(&new);
    let renewed = trusting(&new.0);
    until("the new certificate is shown", async || is_ready(&renewed, &server).await).await;
}

#[tokio::test]
async fn operators_have_a_listener_of_their_own() {
    let folder = TempDir::new().expect("a folder");
    let keys = folder.path().join("keys.toml");
    fs::write(&keys, "[one]\nkey = \"one-0123456789abc\"\n").expect("written");
    let path = keys.display().to_string();
    let server = Server::start(&["--admin-listen", "127.0.0.1:0", "--api-keys", &path]);
    let admin = server.announced("admin").trim_end_matches("/metrics").to_owned();
    let client = client();
    let get = async |url: String| client.get(url).send().await.expect("answers");

    let metrics = get(format!("{admin}/metrics")).await.text().await.expect("text");
    assert!(metrics.contains("siglip_ready 1"), "{metrics}");
    assert_eq!(get(format!("{admin}/health/ready")).await.status(), StatusCode::OK);
    let elsewhere = get(format!("{admin}/v1/models")).await;
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND);
    let text = elsewhere.text().await.expect("text");
    assert!(text.contains("/metrics, /health/live, /health/ready and /admin/models"), "{text}");
    // The example command has a placeholder for the key.
    assert!(server.announcement.contains("-H 'authorization: Bearer KEY'"));
    assert_eq!(get(format!("{}/health/ready", server.url)).await.status(), StatusCode::OK);

    let models = format!("{}/v1/models", server.url);
    let with = async |key: &str, url: &str| {
        client.get(url).bearer_auth(key).send().await.expect("answers").status()
    };
    assert_eq!(with("one-0123456789abc", &models).await, StatusCode::OK);
    assert_eq!(with("two-0123456789abc", &models).await, StatusCode::UNAUTHORIZED);
    let main = format!("{}/metrics", server.url);
    assert_eq!(with("one-0123456789abc", &main).await, StatusCode::NOT_FOUND);

    fs::write(&keys, "[two]\nkey = \"two-0123456789abc\"\n").expect("written");
    until("the new key counts", async || {
        with("two-0123456789abc", &models).await == StatusCode::OK
    })
    .await;
    assert_eq!(with("one-0123456789abc", &models).await, StatusCode::UNAUTHORIZED);
}

#[test]
fn a_server_that_was_told_to_ask_for_keys_does_not_start_without() {
    let ended = run(&["--listen", "127.0.0.1:0", "--api-keys", "/nowhere/keys.toml"]);
    assert_eq!(ended.status.code(), Some(1));
    let log = crate::process::stderr(&ended);
    assert!(log.contains("cannot read the API keys in /nowhere/keys.toml"), "{log}");
}
