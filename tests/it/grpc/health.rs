//! `grpc.health.v1`: always correct, and does not delay a shutdown.

use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::Served;

const SERVICE: &str = "siglip.v1.EmbeddingService";

async fn check(served: &Served, service: &str) -> Result<ServingStatus, tonic::Status> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(served.channel.clone()).check(request).await?;
    Ok(answer.into_inner().status())
}

#[tokio::test]
async fn health_follows_the_registry() {
    let served = Served::start(|_| ()).await;
    for service in ["", SERVICE] {
        assert_eq!(check(&served, service).await.expect(service), ServingStatus::NotServing);
    }
    served.load();
    assert_eq!(check(&served, "").await.expect("answers"), ServingStatus::Serving);
    served.engine.registry().close();
    assert_eq!(check(&served, SERVICE).await.expect("answers"), ServingStatus::NotServing);
}

#[tokio::test]
async fn every_listed_service_has_health() {
    let served = Served::ready(|_| ()).await;
    let listed = super::reflection::listed(&served).await;
    assert!(listed.contains("inference.GRPCInferenceService"), "{listed:?}");
    for service in &listed {
        assert_eq!(check(&served, service).await.expect(service), ServingStatus::Serving);
    }
}

#[tokio::test]
async fn an_unknown_service_is_not_found() {
    let served = Served::ready(|_| ()).await;
    assert_eq!(check(&served, "nobody").await.expect_err("unknown").code(), Code::NotFound);
    assert_eq!(served.counted("/grpc.health.v1.Health/Check", "not_found"), 1);
}

#[tokio::test]
async fn a_watch_tells_every_change_and_does_not_hold_up_a_drain() {
    let served = Served::start(|_| ()).await;
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    let answer = HealthClient::new(served.channel.clone()).watch(request).await;
    let mut watch = answer.expect("a watch").into_inner();
    let mut next = async || watch.message().await.expect("a stream").map(|news| news.status());
    assert_eq!(next().await, Some(ServingStatus::NotServing));
    served.load();
    assert_eq!(next().await, Some(ServingStatus::Serving));
    // Even if the registry was not closed first, the last message is that the server is not serving.
    served.shut_down();
    assert_eq!(next().await, Some(ServingStatus::NotServing));
    assert_eq!(next().await, None);
    drop(watch);
    assert!(served.ended().await.as_secs() < 5);
}
