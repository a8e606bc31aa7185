//! Clients over gRPC.

use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use siglip_server::grpc::proto::{self, embedding_service_client::EmbeddingServiceClient};
use tonic::{Code, transport::Channel};

use crate::{
    clients::{Dice, HANGS},
    shared::{Phase, Shared},
};

pub(crate) type Client = EmbeddingServiceClient<Channel>;
pub(crate) type Request = proto::EmbedRequest;

const TOLERANCE: f32 = 1e-5;

/// The values in the response of a call.
#[derive(Clone)]
pub(crate) struct Answer(Vec<f32>);

impl Answer {
    pub(crate) fn of(response: proto::EmbedResponse) -> Self {
        Self(response.embeddings.map(|matrix| matrix.values).unwrap_or_default())
    }

    fn is_close_to(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|(a, b)| (a - b).abs() <= TOLERANCE)
    }
}

pub(crate) async fn connect(url: &str) -> Client {
    let channel = Channel::from_shared(url.to_owned()).expect("a URL");
    Client::new(channel.connect().await.expect("connects"))
}

fn text(text: String) -> proto::Input {
    proto::Input { content: Some(proto::input::Content::Text(text)) }
}

fn picture(bytes: Vec<u8>) -> proto::Input {
    let source = Some(proto::image::Source::Encoded(bytes.into()));
    proto::Input { content: Some(proto::input::Content::Image(proto::Image { source })) }
}

/// Calls that must succeed.
pub(crate) fn requests() -> Vec<Request> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    let pictures = ["cat.png", "dog.jpg", "pizza.webp", "rocket-animated.gif"]
        .map(|name| fs::read(folder.join(name)).expect("a picture"));
    let inputs = (0..40).map(|index| {
        let mut input = vec![text(format!("call {index}")), text("a cat".to_owned())];
        if index % 2 == 0 {
            input.push(picture(pictures[index / 2 % pictures.len()].clone()));
        }
        Request { input, ..Request::default() }
    });
    inputs.collect()
}

/// One client: sends mostly good calls until it is stopped.
pub(crate) async fn run(shared: Arc<Shared>, number: usize) {
    let mut dice = Dice::new(1000 + number);
    let mut client = shared.rpc.clone();
    while !shared.stopped() {
        if dice.below(10) < 3 {
            call_badly(&shared, &mut client).await;
        } else {
            let (request, expected) = &shared.called[dice.below(shared.called.len())];
            let hurry = (dice.below(10) == 0).then(|| 1 + dice.below(40) as u64);
            call(&shared, &mut client, request, (expected, hurry)).await;
        }
        if shared.phase() >= Phase::Terminated {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn call(
    shared: &Shared,
    client: &mut Client,
    request: &Request,
    (expected, hurry): (&Answer, Option<u64>),
) {
    let began = shared.phase();
    let mut request = tonic::Request::new(request.clone());
    request.set_timeout(hurry.map_or(HANGS, Duration::from_millis));
    let answer = match client.embed(request).await {
        Ok(answer) => Answer::of(answer.into_inner()),
        Err(status) => {
            shared.count(format!("gRPC: {:?}", status.code()));
            let allowed = match status.code() {
                Code::ResourceExhausted => status.metadata().contains_key("retry-after-ms"),
                Code::DeadlineExceeded => hurry.is_some(),
                Code::Cancelled if hurry.is_some() => true,
                Code::Internal if shared.faults => {
                    shared.faulted.fetch_add(1, Ordering::Relaxed);
                    true
                }
                // With a code while the server shuts down, and without one for a call after the server has
                // ended.
                Code::Unavailable => match status.metadata().get("siglip-code") {
                    Some(code) if code == "not_ready" => shared.faults,
                    Some(code) => code == "shutting_down" && shared.phase() >= Phase::Terminated,
                    None => began >= Phase::Terminated,
                },
                _ => began >= Phase::Terminated && status.metadata().get("siglip-code").is_none(),
            };
            if !allowed {
                shared.violate(format!("gRPC, from {began:?}: {status:?}"));
            }
            return;
        }
    };
    shared.count("gRPC: Ok");
    if !answer.is_close_to(expected) {
        shared.violate("gRPC: other values".to_owned());
    }
}

/// A call that must fail.
async fn call_badly(shared: &Shared, client: &mut Client) {
    let request = Request { input: vec![picture(b"no picture".to_vec())], ..Request::default() };
    let began = shared.phase();
    let code = match client.embed(request).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    };
    shared.count(format!("gRPC, bad: {code:?}"));
    let known = matches!(code, Code::InvalidArgument | Code::ResourceExhausted);
    if !known && began < Phase::Terminated && shared.phase() < Phase::Terminated {
        let broken = shared.faults && code == Code::Unavailable;
        if !broken {
            shared.violate(format!("gRPC: a bad picture gives {code:?}"));
        }
    }
}
