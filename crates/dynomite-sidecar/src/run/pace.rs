//! How the driver leads the tasks that ask store and engine: how often, how patiently, and what they have to say.

use std::time::Duration;

use dynomite_lifecycle::{
    CutSight, DonorSight, EngineObservation, OrderId, SettingFault, StoreObservation,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How long an order may take.
pub(super) const ORDER_LIMIT: Duration = Duration::from_secs(4);

/// How often to look, and how long to wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Between two looks.
    pub(super) interval: Duration,
    /// For one answer.
    pub(super) timeout: Duration,
    /// Whether to ask the engine's client port too.
    pub(super) client_port: bool,
}

/// What such a task says.
#[derive(Debug)]
pub(super) enum Said {
    /// The store was looked at.
    Store(StoreObservation),
    /// The engine was looked at.
    Engine(EngineObservation),
    /// An order was carried out.
    Done(OrderId),
    /// The donor was read.
    Donor(OrderId, DonorSight),
    /// A moment of the donor was read.
    Cut(OrderId, CutSight),
    /// The peers were asked; those that do not know this node, by host.
    Introduced(OrderId, Vec<String>),
    /// An order failed.
    Failed(OrderId, String),
    /// The store refused a setting.
    SettingRefused(OrderId, SettingFault, String),
}

impl Said {
    /// The answer to an order without a result of its own.
    pub(super) fn answer(id: OrderId, outcome: Result<(), String>) -> Self {
        match outcome {
            Ok(()) => Self::Done(id),
            Err(why) => Self::Failed(id, why),
        }
    }
}

/// What one such task listens to.
#[derive(Debug)]
pub(super) struct Ear<T> {
    /// What is ordered of it.
    pub(super) orders: mpsc::Receiver<(OrderId, T)>,
    /// How it should look.
    pub(super) pace: watch::Receiver<Pace>,
    /// When it looks next.
    pub(super) next: Instant,
}

/// What such a task has to do now.
#[derive(Debug)]
pub(super) enum Turn<T> {
    /// Carry out an order, and then look at once.
    Order(OrderId, T),
    /// Look.
    Look(Pace),
    /// Nobody listens any more.
    End,
}

impl<T> Ear<T> {
    pub(super) async fn turn(&mut self) -> Turn<T> {
        loop {
            let interval = self.pace.borrow_and_update().interval;
            // A shorter interval takes effect at once.
            self.next = self.next.min(Instant::now() + interval);
            tokio::select! {
                biased;
                order = self.orders.recv() => {
                    self.next = Instant::now();
                    return order.map_or(Turn::End, |(id, order)| Turn::Order(id, order));
                }
                () = tokio::time::sleep_until(self.next) => {
                    self.next = Instant::now() + interval;
                    return Turn::Look(*self.pace.borrow());
                }
                changed = self.pace.changed() => if changed.is_err() {
                    return Turn::End;
                },
            }
        }
    }
}
