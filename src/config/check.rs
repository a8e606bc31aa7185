//! Finds values that are valid alone but contradict each other.

use std::time::Duration;

use super::{
    Config, Device, Effective,
    codec::Literal,
    load::Problem,
    options::{OPTIONS, Spec},
};

/// Two options of which the first must not be more than the second, and the consequence otherwise.
struct AtMost {
    less: (&'static str, fn(&Config) -> usize),
    more: (&'static str, fn(&Config) -> usize),
    otherwise: &'static str,
}

const AT_MOST: [AtMost; 9] = [
    AtMost {
        less: ("limits.max_image_pixels", |config| config.limits.max_image_pixels as usize),
        more: ("limits.max_pixels_in_flight", |config| config.limits.max_pixels_in_flight as usize),
        otherwise: "no image of that size could ever be admitted",
    },
    AtMost {
        less: ("limits.max_decode_bytes", |config| config.limits.max_decode_bytes as usize),
        more: ("limits.max_decode_bytes_in_flight", |config| {
            config.limits.max_decode_bytes_in_flight as usize
        }),
        otherwise: "no image of that size could ever be decoded",
    },
    AtMost {
        less: ("limits.max_items", |config| config.limits.max_items),
        more: ("limits.max_items_in_flight", |config| config.limits.max_items_in_flight),
        otherwise: "no request of that size could ever be admitted",
    },
    AtMost {
        less: ("limits.max_items", |config| config.limits.max_items),
        more: ("batch.max_queue_rows", |config| config.batch.max_queue_rows),
        otherwise: "no request of that size could ever be queued",
    },
    AtMost {
        less: ("limits.max_body_bytes", |config| config.limits.max_body_bytes),
        more: ("limits.max_bytes_in_flight", |config| config.limits.max_bytes_in_flight),
        otherwise: "no body of that size could ever be admitted",
    },
    AtMost {
        less: ("limits.max_feature_bytes", |config| config.limits.max_feature_bytes),
        more: ("limits.max_bytes_in_flight", |config| config.limits.max_bytes_in_flight),
        otherwise: "no answer of that size could ever be admitted",
    },
    AtMost {
        less: ("limits.max_bulk_rows", |config| config.limits.max_bulk_rows),
        more: ("batch.max_queue_rows", |config| config.batch.max_queue_rows),
        otherwise: "bulk rows alone could fill the queue",
    },
    AtMost {
        less: ("batch.max_image_rows", |config| config.batch.max_image_rows),
        more: ("batch.max_queue_rows", |config| config.batch.max_queue_rows),
        otherwise: "no batch could ever be full",
    },
    AtMost {
        less: ("batch.max_text_rows", |config| config.batch.max_text_rows),
        more: ("batch.max_queue_rows", |config| config.batch.max_queue_rows),
        otherwise: "no batch could ever be full",
    },
];

/// All contradictions.
pub(super) fn contradictions(effective: &Effective) -> Vec<Problem> {
    let config = &effective.config;
    let mut problems: Vec<_> = AT_MOST
        .iter()
        .filter(|pair| (pair.less.1)(config) > (pair.more.1)(config))
        .map(|pair| {
            let more = describe(effective, pair.more.0);
            let message = format!("must not be more than {more}: {}", pair.otherwise);
            Problem::new(describe(effective, pair.less.0), message)
        })
        .collect();
    if config.limits.request_timeout == Duration::ZERO {
        problems.push(Problem::new(
            describe(effective, "limits.request_timeout"),
            "must be more than zero: every request would be late".to_owned(),
        ));
    }
    if config.listen.grpc.is_some_and(|grpc| grpc == config.listen.http && grpc.port() != 0) {
        problems.push(Problem::new(
            describe(effective, "listen.grpc"),
            format!("must differ from {}", describe(effective, "listen.http")),
        ));
    }
    let admin = config.listen.admin.filter(|admin| admin.port() != 0);
    if admin.is_some_and(|admin| admin == config.listen.http || Some(admin) == config.listen.grpc) {
        problems.push(Problem::new(
            describe(effective, "listen.admin"),
            "must differ from the other listeners".to_owned(),
        ));
    }
    if config.tls.cert_file.is_some() != config.tls.key_file.is_some() {
        problems.push(Problem::new(
            describe(effective, "tls.cert_file"),
            format!("needs the other one too: {}", describe(effective, "tls.key_file")),
        ));
    }
    if cfg!(not(unix)) && config.listen.unix.is_some() {
        problems.push(Problem::new(
            describe(effective, "listen.unix"),
            "this system has no Unix sockets".to_owned(),
        ));
    }
    let served = match config.served() {
        Ok(served) => served,
        Err((path, message)) => {
            problems.push(Problem::new(describe(effective, path), message));
            return problems;
        }
    };
    for device in served.iter().map(|served| served.model.device) {
        let path = if device == config.model.device { "model.device" } else { "model.source" };
        if let Some(message) = missing_backend(device) {
            problems.push(Problem::new(describe(effective, path), message.to_owned()));
        }
    }
    problems.dedup();
    problems
}

/// Why this build cannot use a device; none if it can.
fn missing_backend(device: Device) -> Option<&'static str> {
    match device {
        Device::Cuda(_) if !cfg!(feature = "cuda") => {
            Some("this binary was built without CUDA (cargo's feature `cuda`)")
        }
        Device::Metal if !cfg!(feature = "metal") => {
            Some("this binary was built without Metal (cargo's feature `metal`)")
        }
        _ => None,
    }
}

/// `section.key (value, origin)`.
fn describe(effective: &Effective, path: &str) -> String {
    let find = |option: &&Spec| option.path() == path;
    let Some(option) = OPTIONS.iter().find(find) else { return path.to_owned() };
    let value = match effective.config.get(option) {
        Literal::Text(text) => text,
        Literal::Integer(number) => number.to_string(),
        Literal::Boolean(on) => on.to_string(),
        Literal::Unset => "not set".to_owned(),
    };
    format!("{path} ({value}, {})", effective.origin(option))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn problem(flags: &[(&str, &str)]) -> String {
        let flags = flags.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        Effective::load(&Sources { flags, ..Sources::default() })
            .expect_err("a contradiction")
            .to_string()
    }

    #[test]
    fn every_rule_is_held() {
        for (flags, start) in [
            (&[("limits-max-items", "8193")][..], "limits.max_items (8193"),
            (&[("batch-max-queue-rows", "1000")], "limits.max_items (1024"),
            (&[("limits-max-body-bytes", "1GiB")], "limits.max_body_bytes (1GiB"),
            (&[("limits-max-feature-bytes", "1GiB")], "limits.max_feature_bytes (1GiB"),
            (&[("limits-max-bulk-rows", "9000")], "limits.max_bulk_rows (9000"),
            (&[("batch-max-image-rows", "9000")], "batch.max_image_rows (9000"),
            (&[("batch-max-text-rows", "9000")], "batch.max_text_rows (9000"),
            (&[("limits-max-image-pixels", "3000000000")], "limits.max_image_pixels (3000000000"),
            (&[("limits-max-decode-bytes", "2GiB")], "limits.max_decode_bytes (2GiB"),
            (&[("limits-request-timeout", "0s")], "limits.request_timeout (0s"),
            (&[("grpc-listen", "127.0.0.1:8080")], "listen.grpc (127.0.0.1:8080"),
            (&[("model", "demo;/x/demo")], "model.source (demo;/x/demo"),
            (&[("model", "demo;/x"), ("model-name", "y")], "model.name (y"),
            (&[("revision", "main")], "model.revision (main"),
            (&[("model-alias", "a=b")], "model.alias (a=b"),
            (&[("admin-listen", "127.0.0.1:8080")], "listen.admin (127.0.0.1:8080"),
            (&[("tls-cert", "a.pem")], "tls.cert_file (a.pem"),
        ] {
            let found = problem(flags);
            assert!(found.starts_with(start), "{found}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_was_not_built_in_is_refused() {
        let found = problem(&[("device", "cuda:1")]);
        assert!(found.starts_with("model.device (cuda:1, flag --device): this binary"), "{found}");
    }
}
