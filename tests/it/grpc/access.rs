//! API keys over gRPC.

use std::sync::Arc;

use siglip_server::{
    auth::Keys,
    grpc::{
        oip_proto::{self, grpc_inference_service_client::GrpcInferenceServiceClient},
        proto::{EmbedRequest, embedding_service_client::EmbeddingServiceClient},
    },
};
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use super::Served;

const EMBED: &str = "/siglip.v1.EmbeddingService/Embed";

#[tokio::test]
async fn calls_present_a_key_and_health_checks_need_none() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "[search]\nkey = \"search-0123456789\"\n").expect("written");
    let path = file.path().to_owned();
    let keys = |metrics| Some(Arc::new(Keys::load(path, metrics).expect("usable")));
    let served = Served::with_keys(|_| {}, keys).await;
    served.load();
    let mut client = EmbeddingServiceClient::new(served.channel.clone());
    let refused = client.embed(EmbedRequest::default()).await.expect_err("no key");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(refused.metadata().get("siglip-code").expect("a code"), "unauthorized");
    assert_eq!(served.counted(EMBED, "unauthorized"), 1);
    for (name, value) in
        [("authorization", "Bearer search-0123456789"), ("x-api-key", "search-0123456789")]
    {
        let mut request = Request::new(EmbedRequest::default());
        request.metadata_mut().insert(name, value.parse().expect("a value"));
        let answer = client.embed(request).await.expect_err("an empty request");
        assert_eq!(answer.code(), Code::InvalidArgument, "{name}: past the door");
    }

    let mut health = HealthClient::new(served.channel.clone());
    health.check(HealthCheckRequest::default()).await.expect("open");
    let mut inference = GrpcInferenceServiceClient::new(served.channel.clone());
    inference.server_ready(oip_proto::ServerReadyRequest {}).await.expect("open");
    let refused = inference.model_infer(oip_proto::ModelInferRequest::default()).await;
    assert_eq!(refused.expect_err("no key").code(), Code::Unauthenticated);
    let list = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let mut reflection = ServerReflectionClient::new(served.channel.clone());
    let refused = reflection.server_reflection_info(futures::stream::iter([list])).await;
    assert_eq!(refused.expect_err("no key").code(), Code::Unauthenticated);
}
