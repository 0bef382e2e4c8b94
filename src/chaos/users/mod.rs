//! Users of the run: some write to them, they come and go on one instance after the other, and in the end each must have
//! seen what was accepted for it.
//!
//! A session that only listens expects what is said while it stands. A user expects more: what was accepted before it came,
//! while it was nowhere, or on an instance that has died since. So it has books of its own ([`Mail`]).

mod device;
mod mail;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use mail::{Mail, MailSums};

use super::instance::Door;
use super::options::Options;
use super::session::Orders;
use crate::identity::{Identity, Rights, Role, Rules, Signer};
use crate::user::{GroupName, UserName};
use device::Device;
use writer::Writer;

/// To which all users belong.
const GROUP: &str = "chaos";

/// Every so many users have two devices, on different instances mostly.
const WITH_TWO_DEVICES: usize = 4;

/// Pause before a session is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// The instances' doors, any of which will do.
type Doors = Vec<watch::Receiver<Door>>;

/// The key by which instances know the users.
pub struct Key {
    pub file: PathBuf,
    signer: Signer,
}

impl Key {
    /// A secret of this run alone.
    pub fn make(directory: &Path) -> anyhow::Result<Key> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| anyhow!("a secret by chance: {error}"))?;
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let file = directory.join("jwt.key");
        std::fs::write(&file, &secret).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Key { file, signer: Signer::of_secret(secret.as_bytes()) })
    }

    /// What an instance is told of it. Whoever is no user is let in as before.
    pub fn arguments(&self) -> [String; 4] {
        ["--jwt-key-file", &self.file.to_string_lossy(), "--anonymous", "allow"].map(str::to_owned)
    }

    /// What a session offers: its subprotocol, and a token for longer than the run. Users belong to the group; who may write
    /// does not.
    fn subprotocols(
        &self,
        name: &str,
        role: Option<Role>,
        protocol: &str,
        options: &Options,
    ) -> anyhow::Result<String> {
        let groups = if role.is_none() { vec![GroupName::parse(GROUP)?] } else { Vec::new() };
        let identity = Identity {
            user: UserName::parse(name)?,
            groups,
            rights: Rights { roles: role.into_iter().collect(), ..Rights::default() },
            expires_s: None,
        };
        let lasts = Duration::from_secs(3600) + 10 * (options.duration + options.settle);
        let token = self.signer.sign(&identity, lasts.as_secs(), &Rules::default())?;
        Ok(format!("{protocol}, bearer.{token}"))
    }
}

/// A user by its number, as tokens name it.
fn name_of(user: usize) -> String {
    format!("user-{user}")
}

/// Lets users come and go, and others write to them.
pub fn start(
    options: &Options,
    key: &Key,
    doors: &Doors,
    orders: &watch::Receiver<Orders>,
    mail: &Arc<Mail>,
) -> anyhow::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for user in 0..options.users {
        let name = name_of(user);
        let [plain, json] = ["warren.v1.plain", crate::protocol::json::NAME]
            .map(|protocol| key.subprotocols(&name, None, protocol, options));
        let (plain, json) = (plain?, json?);
        for _ in 0..devices_of(user) {
            let subprotocols = [plain.clone(), json.clone()];
            tasks.spawn(Device::new(user, subprotocols, doors.clone(), orders.clone(), mail.clone()).run());
        }
    }
    let writers = if options.users > 0 { doors.len() } else { 0 };
    let interval = Duration::from_secs_f64(writers.max(1) as f64 / options.letters);
    for number in 0..writers {
        let name = format!("writer-{number}");
        let subprotocols = key.subprotocols(&name, Some(Role::Send), crate::protocol::json::NAME, options)?;
        tasks.spawn(Writer::new(number, subprotocols, doors.clone(), orders.clone(), mail.clone(), interval).run());
    }
    Ok(tasks)
}

/// Books for the users of a run.
pub fn books(options: &Options) -> Arc<Mail> {
    let devices: Vec<usize> = (0..options.users).map(devices_of).collect();
    Arc::new(Mail::new(&devices))
}

fn devices_of(user: usize) -> usize {
    if user % WITH_TWO_DEVICES == WITH_TWO_DEVICES - 1 { 2 } else { 1 }
}

/// Some instance that listens, and how often that was struck so far; waits until there is one.
async fn some_door(doors: &mut Doors) -> (usize, Door) {
    loop {
        let all = doors.iter().enumerate().map(|(place, door)| (place, *door.borrow()));
        let open: Vec<_> = all.filter(|(_, door)| door.is_open).collect();
        if let Some(door) = fastrand::choice(open) {
            return door;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until nothing is written any more.
async fn settling(orders: &mut watch::Receiver<Orders>) {
    // Whoever ends the run drops what gives the orders: then nobody asks any more.
    if orders.wait_for(|orders| orders.is_settling).await.is_err() {
        std::future::pending().await
    }
}
