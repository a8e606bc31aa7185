//! Server reflection, in both versions that clients speak.

use std::collections::BTreeSet;

use super::Served;

const SERVICES: [&str; 2] = ["grpc.health.v1.Health", "siglip.v1.EmbeddingService"];

/// Asks one version of the protocol for its list of services.
macro_rules! services {
    ($served:expr, $version:ident) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = ServerReflectionClient::new($served.channel.clone());
        let answers = client.server_reflection_info(tokio_stream::iter([request])).await;
        let answer = answers.expect("a stream").into_inner().message().await.expect("an answer");
        match answer.and_then(|answer| answer.message_response) {
            Some(MessageResponse::ListServicesResponse(list)) => {
                list.service.into_iter().map(|service| service.name).collect::<BTreeSet<_>>()
            }
            other => panic!("{other:?}"),
        }
    }};
}

/// Every service that reflection lists, in either version.
pub(super) async fn listed(served: &Served) -> BTreeSet<String> {
    services!(served, v1).into_iter().chain(services!(served, v1alpha)).collect()
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let served = Served::start(|_| ()).await;
    for listed in [services!(served, v1), services!(served, v1alpha)] {
        for service in SERVICES {
            assert!(listed.contains(service), "{listed:?}");
        }
    }
}
