//! TLS: the cryptography, chosen once for the process, and the certificate of the listeners.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

use crate::{config, small_file};

/// Maximum size of a certificate with its chain, or of a key.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// How often the files are read. They are small.
const INTERVAL: Duration = Duration::from_secs(1);

/// Makes rustls use ring, which needs only a C compiler. This must be called before any TLS is set up; further
/// calls change nothing.
pub fn install_provider() {
    // An error means that a provider is already installed.
    drop(ring::default_provider().install_default());
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file's path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file has wrong content, or the key belongs to another certificate.
    #[error("{path} is not usable: {reason}")]
    Content {
        /// The file's path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The certificate of the listeners and its key. Both are updated when their files change.
pub struct Identity {
    cert_file: PathBuf,
    key_file: PathBuf,
    /// The content of the files when they were last applied.
    files: RwLock<Files>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the certificate of {}", self.cert_file.display())
    }
}

/// The hashes of both files.
type Files = [blake3::Hash; 2];

impl Identity {
    /// Reads the files that the configuration names; none if it names none.
    ///
    /// # Errors
    /// [`IdentityError`], which names the file at fault.
    pub fn load(config: &config::Tls) -> Result<Option<Self>, IdentityError> {
        let (Some(cert_file), Some(key_file)) = (&config.cert_file, &config.key_file) else {
            return Ok(None);
        };
        let (files, current) = read(cert_file, key_file)?;
        Ok(Some(Self {
            cert_file: cert_file.clone(),
            key_file: key_file.clone(),
            files: RwLock::new(files),
            current: RwLock::new(Arc::new(current)),
        }))
    }

    /// An acceptor with this certificate for the named protocols, the preferred one first.
    ///
    /// # Errors
    /// Fails if the cryptography lacks the protocol versions, which does not happen.
    pub fn acceptor(self: &Arc<Self>, protocols: &[&str]) -> Result<TlsAcceptor, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shown(Arc::clone(self))));
        config.alpn_protocols =
            protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Applies changes of the files until the task ends. Invalid files change nothing: the old certificate
    /// stays in use, and the error is logged once. Open connections keep their certificate.
    pub async fn follow_files(self: Arc<Self>) {
        let mut complaint = None;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let identity = Arc::clone(&self);
            let read = tokio::task::spawn_blocking(move || identity.reread()).await;
            let failure = match read {
                Ok(Ok(changed)) => {
                    if changed {
                        info!("the TLS certificate has changed");
                    }
                    None
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(text) = failure.as_ref().filter(|_| failure != complaint) {
                error!(error = text, "the TLS certificate in force stays as it is");
            }
            complaint = failure;
        }
    }

    /// Reads the files, and returns whether they have changed.
    ///
    /// # Errors
    /// [`IdentityError`], and then nothing is changed.
    pub fn reread(&self) -> Result<bool, IdentityError> {
        let (files, current) = read(&self.cert_file, &self.key_file)?;
        if *self.files.read() == files {
            return Ok(false);
        }
        *self.current.write() = Arc::new(current);
        *self.files.write() = files;
        Ok(true)
    }
}

/// Gives the current certificate to every client, whatever name it asks for.
#[derive(Debug)]
struct Shown(Arc<Identity>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current.read()))
    }
}

fn read(cert_file: &PathBuf, key_file: &PathBuf) -> Result<(Files, CertifiedKey), IdentityError> {
    let bytes = |path: &PathBuf| {
        let unreadable = |source| IdentityError::Read { path: path.clone(), source };
        small_file::read(path, MAX_PEM_BYTES).map_err(unreadable)
    };
    // The reason never quotes the file, which may be a key.
    let unusable = |path: &PathBuf, reason: &str| IdentityError::Content {
        path: path.clone(),
        reason: reason.to_owned(),
    };
    let (cert_pem, key_pem) = (bytes(cert_file)?, bytes(key_file)?);
    let chain = CertificateDer::pem_slice_iter(&cert_pem)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| unusable(cert_file, "it holds no certificate in PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(&key_pem)
        .map_err(|_| unusable(key_file, "it holds no private key in PEM"))?;
    let certified = CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| unusable(key_file, &format!("not the certificate's key ({error})")))?;
    Ok(([blake3::hash(&cert_pem), blake3::hash(&key_pem)], certified))
}
