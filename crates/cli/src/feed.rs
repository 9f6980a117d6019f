//! The status as it changes, through restarts of the agent.
//!
//! A stream that is silent may be quiet or dead, and a hung agent looks like a quiet one. So after a second of silence
//! the feed asks; what it hands out is always known to be true at the moment it says.

use crate::client::{self, Answer, Client};
use api::Status;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// Silence after which the feed asks.
const SILENCE: Duration = Duration::from_secs(1);
/// An agent that needs longer to say how it is does not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts to connect; a killed agent is back in well under a second.
const RECONNECT: Duration = Duration::from_millis(200);
/// Readers draw at most a few dozen times a second; the feed waits for them rather than piling up.
const PENDING_MAX: usize = 4;

/// What a feed tells.
#[derive(Debug)]
pub(crate) enum News {
    /// How things stand, and when that was heard.
    Status(Box<Answer<Status>>, Instant),
    /// Nothing newer can be had for now, because.
    Trouble(String),
    /// Nothing newer can be had, ever.
    Failed(client::Error),
}

/// Starts a feed; dropping the receiver ends it.
pub(crate) fn follow(client: Client) -> mpsc::Receiver<News> {
    let (sender, receiver) = mpsc::channel(PENDING_MAX);
    tokio::spawn(async move {
        // Ends when nobody listens any more, or with an error that waiting does not mend.
        loop {
            match connection(&client, &sender).await {
                Err(error) if !error.may_heal() => {
                    let _ = sender.send(News::Failed(error)).await;
                    return;
                }
                Err(error) if sender.send(News::Trouble(error.to_string())).await.is_err() => return,
                Ok(()) if sender.is_closed() => return,
                _ => sleep(RECONNECT).await,
            }
        }
    });
    receiver
}

/// One connection, to its end.
async fn connection(client: &Client, sender: &mpsc::Sender<News>) -> Result<(), client::Error> {
    let mut stream = client.stream::<Status>("/v1/status/stream").await?;
    ask(client, sender).await?;
    loop {
        tokio::select! {
            () = sender.closed() => return Ok(()),
            next = stream.next() => match next? {
                None => return Ok(()),
                Some(answer) => {
                    if sender.send(News::Status(Box::new(answer), Instant::now())).await.is_err() {
                        return Ok(());
                    }
                }
            },
            () = sleep(SILENCE) => ask(client, sender).await?,
        }
    }
}

async fn ask(client: &Client, sender: &mpsc::Sender<News>) -> Result<(), client::Error> {
    // What the answer says was true when it was asked for, at the latest.
    let asked = Instant::now();
    let news = match timeout(PATIENCE, client.get::<Status>("/v1/status")).await {
        Ok(answer) => News::Status(Box::new(answer?), asked),
        Err(_) => News::Trouble("the agent does not answer".into()),
    };
    let _ = sender.send(news).await;
    Ok(())
}
