//! A service on which causes are tried one by one, with the answer to each.

use std::time::Duration;

use anyhow::Result;

use super::{answer::Answer, cause::Cause, inject::Scene, place::Place, service::Service};
use crate::{World, interrupt};

/// Time for the agent to see the service before it is compared with itself, and time that the service is left alone
/// before each cause.
const ACQUAINT: Duration = Duration::from_secs(3);
const CALM: Duration = Duration::from_secs(18);
/// Window that `explain` is asked about. A cause lasts longer by the margin, so that the window holds nothing else.
const WINDOW: Duration = Duration::from_secs(6);
const MARGIN: Duration = Duration::from_millis(2500);

/// A service on this machine on which causes are tried one after the other.
pub struct Series<'a> {
    world: &'a World,
    place: Place,
    service: Service,
}

/// Result of one cause.
#[derive(Debug)]
pub enum Outcome {
    /// This machine cannot have it, with the reason.
    Skipped(String),
    /// The answer, and the longest checkpoint before the cause and during it.
    Answered(Answer, [Option<Duration>; 2]),
}

impl<'a> Series<'a> {
    /// Starts the service in a cgroup of this name.
    ///
    /// # Errors
    /// When it cannot be started, or a signal came.
    pub fn start(world: &'a World, name: &str) -> Result<Self> {
        let place = Place::find(world)?;
        let service = Service::start(world, name, &place.cpus, place.node)?;
        interrupt::sleep(ACQUAINT)?;
        Ok(Self {
            world,
            place,
            service,
        })
    }

    /// The cgroup of the service, as the agent knows it.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.service.group.label
    }

    /// The CPUs of the service.
    #[must_use]
    pub fn cpus(&self) -> &[usize] {
        &self.place.cpus
    }

    /// Leaves the service alone for a while, brings the cause about, and asks `explain`.
    ///
    /// # Errors
    /// When the cause cannot be brought about, `explain` fails, or a signal came.
    pub fn bring(&mut self, cause: Cause, say: &dyn Fn(&str)) -> Result<Outcome> {
        let mut scene = Scene {
            world: self.world,
            place: &self.place,
            service: &mut self.service,
        };
        if let Some(why) = scene.obstacle(cause) {
            return Ok(Outcome::Skipped(why));
        }
        say(&format!("calm for {} s", CALM.as_secs()));
        scene.service.checkpoint()?;
        interrupt::sleep(CALM)?;
        let calm = scene.service.checkpoint()?;
        let (world, mut answered) = (scene.world, None);
        scene.during(cause, &mut |service| {
            say(&format!(
                "{} for {} s",
                super::expected::about(cause),
                (WINDOW + MARGIN).as_secs()
            ));
            interrupt::sleep(WINDOW + MARGIN)?;
            let address = world.agent.address();
            let answer = Answer::ask(&world.program, &address, &service.group.label, WINDOW)?;
            answered = Some((answer, service.checkpoint()?));
            Ok(())
        })?;
        let (answer, checkpoint) = answered.ok_or_else(|| anyhow::anyhow!("nothing was asked"))?;
        Ok(Outcome::Answered(answer, [calm, checkpoint]))
    }
}
