//! Who may ask, and how the server proves who it is: the same on every listener that answers requests.

use std::{net::SocketAddr, sync::Arc};

use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::warn;

use super::AppError;
use crate::{
    auth::Keys,
    config::{self, Config},
    engine::Engine,
    rest,
    tls::Identity,
};

/// What the listeners share.
pub(super) struct Security {
    keys: Option<Arc<Keys>>,
    identity: Option<Arc<Identity>>,
}

impl Security {
    /// Reads keys and certificate, where the configuration names them.
    pub(super) fn load(config: &Config, engine: &Engine) -> Result<Self, AppError> {
        let keys = config.auth.keys_file.clone();
        let keys = keys.map(|path| Keys::load(path, Arc::clone(engine.metrics()))).transpose()?;
        let security =
            Self { keys: keys.map(Arc::new), identity: Identity::load(&config.tls)?.map(Arc::new) };
        security.warn_of_what_is_open(&config.listen);
        Ok(security)
    }

    fn warn_of_what_is_open(&self, listen: &config::Listen) {
        let abroad = |addr: &SocketAddr| !addr.ip().is_loopback();
        if ![Some(listen.http), listen.grpc].iter().flatten().any(abroad) {
            return;
        }
        if self.keys.is_none() {
            warn!("other machines may connect, and nobody is asked for a key (auth.keys_file)");
        } else if self.identity.is_none() {
            warn!("other machines may connect, and keys travel unencrypted (tls.cert_file)");
        }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.identity.is_some()
    }

    /// Who may use the HTTP listener.
    pub(super) fn rest(&self, listen: &config::Listen) -> rest::Access {
        rest::Access {
            is_admin: false,
            keys: self.keys.clone(),
            origins: listen.cors_origins.clone().map(|list| list.0).unwrap_or_default(),
            hosts: hosts(listen, &listen.http),
            metrics: listen.admin.is_none(),
        }
    }

    /// The keys of the gRPC listener.
    pub(super) fn keys(&self) -> Option<Arc<Keys>> {
        self.keys.clone()
    }

    /// What turns a connection into a TLS connection, where there is a certificate.
    pub(super) fn acceptor(&self, protocols: &[&str]) -> Result<Option<TlsAcceptor>, AppError> {
        Ok(self.identity.as_ref().map(|identity| identity.acceptor(protocols)).transpose()?)
    }

    /// Tasks that take over what changes in the files. They end when the set is dropped.
    pub(super) fn follow_files(&self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if let Some(keys) = self.keys.clone() {
            tasks.spawn(keys.follow_file());
        }
        if let Some(identity) = self.identity.clone() {
            tasks.spawn(identity.follow_files());
        }
        tasks
    }
}

/// The names under which a listener answers.
pub(super) fn hosts(listen: &config::Listen, addr: &SocketAddr) -> rest::Hosts {
    let allowed = listen.allowed_hosts.as_ref().map(|list| list.0.as_slice());
    rest::Hosts::of(addr.ip().is_loopback(), allowed)
}
