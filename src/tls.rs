//! The cryptography of TLS, chosen once for the process.

/// Makes rustls use ring: it is built with a C compiler alone. Called before any TLS is set up; further
/// calls change nothing.
pub fn install_provider() {
    // An error means that a provider is there already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
}
