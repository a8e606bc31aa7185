//! Chooses the container of a response by the `Accept` header.

use axum::http::{HeaderMap, header};

/// The container of a response with vectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Container {
    /// JSON.
    #[default]
    Json,
    /// numpy's file format, with one array.
    Npy,
    /// safetensors: named tensors with metadata.
    Safetensors,
}

/// numpy's format has no registered content type. These two are in use.
const NPY_TYPES: [&str; 2] = ["application/x-npy", "application/octet-stream+npy"];
const SAFETENSORS_TYPE: &str = "application/vnd.safetensors";

impl Container {
    /// The content type of a response in this container.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Npy => NPY_TYPES[0],
            Self::Safetensors => SAFETENSORS_TYPE,
        }
    }

    /// Whether it contains binary numbers.
    pub(super) const fn is_binary(self) -> bool {
        matches!(self, Self::Npy | Self::Safetensors)
    }

    /// The container that the client prefers. JSON if `Accept` names no supported one, because many clients
    /// send a fixed header.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut best = (0.0, Self::Json);
        for range in values.flat_map(|value| value.split(',')) {
            let Some((container, quality)) = read(range) else { continue };
            // With equal quality, the first one is chosen.
            if quality > best.0 {
                best = (quality, container);
            }
        }
        best.1
    }
}

/// A media range with a supported container, and its quality value.
fn read(range: &str) -> Option<(Container, f32)> {
    let mut parts = range.split(';').map(str::trim);
    let essence = parts.next()?.to_ascii_lowercase();
    let container = match essence.as_str() {
        "application/json" | "application/*" | "*/*" => Container::Json,
        SAFETENSORS_TYPE => Container::Safetensors,
        npy if NPY_TYPES.contains(&npy) => Container::Npy,
        _ => return None,
    };
    let quality = parts.find_map(|part| part.strip_prefix("q=")).map(|text| text.parse().ok());
    Some((container, quality.flatten().unwrap_or(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_is_wanted_most_is_chosen() {
        for (accept, container) in [
            ("", Container::Json),
            ("*/*", Container::Json),
            ("text/html", Container::Json),
            ("application/x-npy", Container::Npy),
            ("application/octet-stream+npy", Container::Npy),
            ("Application/Vnd.Safetensors", Container::Safetensors),
            ("application/json, application/x-npy", Container::Json),
            ("application/json;q=0.5, application/x-npy", Container::Npy),
            ("application/x-npy;q=0, */*;q=0.1", Container::Json),
            (
                "application/x-npy ; q=0.4,application/vnd.safetensors ; q=0.6",
                Container::Safetensors,
            ),
            ("application/x-npy;q=x", Container::Npy),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("a header"));
            assert_eq!(Container::accepted(&headers), container, "{accept}");
        }
    }
}
