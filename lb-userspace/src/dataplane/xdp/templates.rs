//! Which templates of persistence are over, and which a connection keeps. Pure.
//!
//! A template lives for the virtual server's time after its last use, which is that of the last connection
//! made by it, and as long as one of those is there: an application that keeps its connections open for
//! hours is the client that must not find its next one elsewhere. The program sees to the first, a
//! [`Sweep`] to the second, from the connections that a pass over their table has met.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use lb_common::abi::{Addr, Real, Template, TemplateKey};

use super::{image::Image, sweep::age};

/// From one pass to the next, and as much again for a large table.
const PASS: Duration = Duration::from_secs(2);

/// Clients that have a connection, each with its real server.
///
/// # Bound
/// One for each connection of a virtual server with persistence at most, so as many as the table of
/// connections has entries (`lvs_flow_table`), 32 bytes each.
#[derive(Debug, Default)]
pub struct Held(HashSet<(TemplateKey, u16)>);

impl Held {
    /// Takes an established connection of `client` with `real`, whose id is `id`.
    pub fn add(&mut self, client: Addr, id: u16, real: &Real) {
        if real.is_persistent() && real.service != 0 {
            let network = client.and(real.granularity);
            self.0.insert((TemplateKey::new(network, real.service), id));
        }
    }

    /// Whether nobody has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, key: TemplateKey, id: u16) -> bool {
        self.0.contains(&(key, id))
    }
}

/// What becomes of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Stays,
    /// A connection of it has been there all the time: to be written as used now.
    Renewed,
    /// Nobody will use it again.
    Over,
}

/// One way through the table of templates.
#[derive(Debug)]
pub struct Sweep {
    held: Held,
    /// By service id, those with persistence.
    lives: BTreeMap<u16, Duration>,
    jiffies: u64,
    tick: Duration,
    found: BTreeMap<u16, u64>,
}

impl Sweep {
    /// `held` is of the moment `jiffies`, or of a little before.
    pub fn new(image: &Image, held: Held, jiffies: u64, tick: Duration) -> Self {
        let lives = image
            .services
            .values()
            .filter(|service| service.persistence_secs != 0)
            .map(|service| (service.id, Duration::from_secs(service.persistence_secs.into())))
            .collect();
        Self { held, lives, jiffies, tick, found: BTreeMap::new() }
    }

    /// Takes a template; what becomes of it. `image` is of now, because real servers die meanwhile.
    pub fn entry(&mut self, image: &Image, key: TemplateKey, template: &Template) -> Fate {
        let Some(life) = self.lives.get(&key.service) else { return Fate::Over };
        let is_of_its_server = image.reals.get(&template.real).is_some_and(|real| {
            real.generation == template.generation && real.service == key.service
        });
        let age = age(template.used, self.jiffies, self.tick);
        let held = self.held.has(key, template.real);
        if !is_of_its_server || (age > *life && !held) {
            return Fate::Over;
        }
        *self.found.entry(key.service).or_default() += 1;
        // In good time: before the next pass it must not run out.
        if held && age > (*life / 2).saturating_sub(PASS) { Fate::Renewed } else { Fate::Stays }
    }

    /// The same template as used at the begin.
    pub fn renewed(&self, template: &Template) -> Template {
        Template { used: self.jiffies, ..*template }
    }

    /// Templates that stay, by service id.
    pub fn found(self) -> BTreeMap<u16, u64> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{STATE_UP, Service, ServiceKey, be32};

    use super::*;

    const TICK: Duration = Duration::from_millis(4);
    const NOW: u64 = 1 << 32;
    const ID: u16 = 7;

    fn image() -> Image {
        let mut image = Image::default();
        for (id, persistence_secs) in [(1, 100), (2, 0)] {
            let key = ServiceKey { port: id, ..ServiceKey::default() };
            let service = Service { id, persistence_secs, ..Service::default() };
            image.services.insert(key, service);
        }
        image.reals.insert(ID, real());
        image
    }

    fn real() -> Real {
        let granularity = Addr::mask(24, true);
        Real { generation: 5, service: 1, state: STATE_UP, granularity, ..Real::default() }
    }

    fn key(service: u16) -> TemplateKey {
        TemplateKey::new(Addr::v4(be32([192, 0, 2, 0])), service)
    }

    fn template(age: u64) -> Template {
        Template { used: NOW - age * 250, generation: 5, real: ID, pad: 0 }
    }

    fn held(client: [u8; 4], id: u16) -> Held {
        let mut held = Held::default();
        held.add(Addr::v4(be32(client)), id, &real());
        held
    }

    #[test]
    fn templates_end_with_their_time_unless_a_connection_is_there() {
        let mine = || held([192, 0, 2, 9], ID);
        for (name, age, held, want) in [
            ("young", 1, Held::default(), Fate::Stays),
            ("old", 99, Held::default(), Fate::Stays),
            ("over", 101, Held::default(), Fate::Over),
            ("young and held", 47, mine(), Fate::Stays),
            ("half of it is over before the next pass", 49, mine(), Fate::Renewed),
            ("long over, while no pass was made", 1000, mine(), Fate::Renewed),
            ("a neighbour's network", 101, held([192, 0, 3, 9], ID), Fate::Over),
            ("a connection with another server", 101, held([192, 0, 2, 9], 8), Fate::Over),
        ] {
            let mut sweep = Sweep::new(&image(), held, NOW, TICK);
            assert_eq!(sweep.entry(&image(), key(1), &template(age)), want, "{name}");
            let stays = u64::from(want != Fate::Over);
            let again = sweep.renewed(&template(age));
            assert_eq!((again.used, again.real, again.generation), (NOW, ID, 5));
            assert_eq!(sweep.found().values().sum::<u64>(), stays, "{name}");
        }
        // One that was used while the table was read.
        let mut sweep = Sweep::new(&image(), Held::default(), NOW, TICK);
        let used = Template { used: NOW + 9, ..template(0) };
        assert_eq!(sweep.entry(&image(), key(1), &used), Fate::Stays);
    }

    #[test]
    fn what_nobody_can_use_is_over_at_once() {
        let fate = |image: &Image, service, template: &Template| {
            let mut sweep = Sweep::new(image, held([192, 0, 2, 9], ID), NOW, TICK);
            sweep.entry(image, key(service), template)
        };
        assert_eq!(fate(&image(), 1, &template(1)), Fate::Stays);
        assert_eq!(fate(&image(), 2, &template(1)), Fate::Over, "no persistence any more");
        assert_eq!(fate(&image(), 3, &template(1)), Fate::Over, "no such virtual server");
        let dead = Template { generation: 4, ..template(1) };
        assert_eq!(fate(&image(), 1, &dead), Fate::Over, "its server died");
        let mut changed = image();
        changed.reals.get_mut(&ID).expect("there").service = 2;
        assert_eq!(fate(&changed, 1, &template(1)), Fate::Over, "its id is another server's");
        changed.reals.clear();
        assert_eq!(fate(&changed, 1, &template(1)), Fate::Over, "its server is gone");
    }

    #[test]
    fn only_connections_of_persistent_virtual_servers_are_noted() {
        let mut held = Held::default();
        held.add(
            Addr::v4(be32([192, 0, 2, 1])),
            ID,
            &Real { granularity: Addr::default(), ..real() },
        );
        held.add(Addr::v4(be32([192, 0, 2, 1])), ID, &Real { service: 0, ..real() });
        assert!(held.0.is_empty());
        held.add(Addr::v4(be32([192, 0, 2, 1])), ID, &real());
        held.add(Addr::v4(be32([192, 0, 2, 2])), ID, &real());
        assert_eq!(held.0.len(), 1, "one network, however many connections");
    }
}
