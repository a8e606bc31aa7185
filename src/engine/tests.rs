//! What only the engine's inside shows.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;

use super::{Context, Engine, ImageInput, until_deadline};
use crate::{config::Config, error::Code, registry::Registry, telemetry::Metrics};

#[tokio::test]
async fn an_item_that_is_given_up_before_its_decode_costs_none_and_is_counted() {
    let mut config = Config::default();
    config.model.cpu_pool_threads = 1;
    let metrics = Arc::new(Metrics::new());
    let registry = Registry::new(["m".to_owned()]);
    let engine = Engine::new(&config, registry, Arc::clone(&metrics)).expect("threads");
    let engine = Arc::new(engine);
    // The only thread is busy until it is told otherwise.
    let (release, held) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel();
    let busy = {
        let engine = Arc::clone(&engine);
        let job = move || {
            begin.send(()).expect("waited for");
            held.recv()
        };
        tokio::spawn(async move { engine.pool.run(job).await })
    };
    while begun.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    let picture = || ImageInput::Encoded(Bytes::from_static(b"no picture"));
    let dropped = |reason| metrics.dropped.with_label_values(&[reason]).get();

    let short = Context::with_timeout(Duration::from_millis(5));
    let expired = until_deadline(&short, engine.encoded(picture(), &short)).await;
    assert_eq!(expired.err().map(|error| error.code()), Some(Code::DeadlineExceeded));
    assert_eq!((dropped("expired"), dropped("cancelled")), (1, 0));

    let long = Context::with_timeout(Duration::from_secs(600));
    let mut left = Box::pin(engine.encoded(picture(), &long));
    assert!(futures::poll!(&mut left).is_pending());
    drop(left);
    assert_eq!((dropped("expired"), dropped("cancelled")), (1, 1));

    release.send(()).expect("held");
    drop(busy.await);
    // One that is waited for gets its answer, and is not counted.
    let read = engine.encoded(picture(), &long).await;
    assert_eq!(read.err().map(|error| error.code()), Some(Code::UndecodableImage));
    assert_eq!((dropped("expired"), dropped("cancelled")), (1, 1));
}

#[tokio::test]
async fn a_job_whose_caller_left_keeps_what_it_takes_until_it_ends() {
    let mut config = Config::default();
    config.model.cpu_pool_threads = 1;
    let registry = Registry::new(["m".to_owned()]);
    let engine = Engine::new(&config, registry, Arc::new(Metrics::new())).expect("threads");
    let share = Arc::new(());
    let (release, held) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel();
    let context = Context::with_timeout(Duration::from_secs(600));
    context.work.keep(Arc::clone(&share) as _);
    {
        let job = move || {
            begin.send(()).expect("waited for");
            held.recv()
        };
        let mut decode = Box::pin(engine.on_pool(&context, job));
        assert!(futures::poll!(&mut decode).is_pending());
        while begun.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
    }
    // The client has left, and its request with it.
    drop(context);
    assert_eq!(Arc::strong_count(&share), 2);
    release.send(()).expect("held");
    engine.pool.run(|| ()).await.expect("the job before it has ended");
    assert_eq!(Arc::strong_count(&share), 1);
}
