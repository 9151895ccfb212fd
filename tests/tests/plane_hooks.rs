//! The program on interfaces, by the engine alone: what is there in two ways, without tc, of somebody else, or of ourselves
//! and cannot be taken off. Through a whole lbd: `plane_tc`.

use std::{
    fs,
    net::Ipv6Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use lb_common::maps;
use lb_tests::{
    netns::{Namespace, ready_or_skip, unique},
    packet::build::{
        extension::{DESTINATION, HOP_BY_HOP},
        ipv6,
    },
    sys::send_in_pieces,
    wait::wait_until,
};
use lb_userspace::{
    base::{
        table::{LeaseSlot, LeaseState},
        time::Instant,
    },
    config::model::Attachment,
    dataplane::{
        DataPlane as _, FailureKind,
        xdp::{
            LeaseWriter, Xdp, attach, clsact,
            links::{self, LINKS},
            loader,
        },
    },
    reconcile::{Operation, Plan},
};
use nix::net::if_::if_nametoindex;

/// A namespace with veth interfaces, and pins that go when the test ends, however it ends.
struct Bed {
    netns: Namespace,
    pins: PathBuf,
}

impl Bed {
    fn new(interfaces: &[&str]) -> Result<Self> {
        let netns = Namespace::new("lb")?;
        for (number, name) in interfaces.iter().enumerate() {
            let peer = format!("peer{number}");
            netns.ip(&["link", "add", name, "type", "veth", "peer", "name", &peer])?;
            netns.ip(&["link", "set", name, "up"])?;
        }
        let pins = Path::new("/sys/fs/bpf").join(format!("lbd-{}", unique("hooks")));
        Ok(Self { netns, pins })
    }

    fn enter<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.netns.enter(what)?
    }

    fn open(&self, wanted: Attachment) -> Result<Xdp> {
        Xdp::open(&self.pins, 4096, wanted)
    }

    fn index(name: &str) -> Result<u32> {
        Ok(if_nametoindex(name)?)
    }

    /// Programs by tcx, of XDP, and filters named as ours, on an interface.
    fn on(&self, name: &str) -> Result<[usize; 3]> {
        let tcx =
            self.netns.enter(|| SchedClassifier::query_tcx(name, TcAttachType::Ingress))??;
        let xdp = self.netns.ip(&["-d", "link", "show", "dev", name])?;
        let filters = self.netns.run("tc", &["filter", "show", "dev", name, "ingress"])?;
        let filters = filters.matches("lbd_tc").count();
        Ok([tcx.1.len(), xdp.matches("prog/xdp").count(), filters])
    }

    /// Until that is so: the kernel takes a link whose last pin is gone apart in a worker, and what another test's
    /// child holds between fork and exec when that one execs.
    fn wait_on(&self, name: &str, wanted: [usize; 3]) -> Result<()> {
        wait_until(
            &format!("{wanted:?} on {name}"),
            Duration::from_secs(20),
            || Ok((self.on(name)? == wanted).then_some(())),
            || format!("{:?}", self.on(name)),
        )
    }

    fn has_qdisc(&self, name: &str) -> Result<bool> {
        Ok(self.netns.run("tc", &["qdisc", "show", "dev", name])?.contains("clsact"))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let pins = &self.pins;
        // Directories that tests put in the way.
        for stray in [pins.join("lbd_tc6_new"), pins.join(LINKS).join("native-1")] {
            let _ = fs::remove_dir(stray);
        }
        let _ = self.netns.enter(|| loader::remove(pins));
    }
}

fn apply(engine: &mut Xdp, operations: Vec<Operation>) -> Result<()> {
    let report = engine.apply(&Plan { operations });
    let failures: Vec<_> = report.failures().map(|it| it.text.clone()).collect();
    ensure!(failures.is_empty(), "{failures:?}");
    Ok(())
}

fn attach_to(name: &str) -> Operation {
    Operation::Attach { interface: name.to_owned() }
}

fn mode_and_reason(engine: &mut Xdp, name: &str) -> Result<(String, String)> {
    let found = engine.status()?.interfaces.into_iter().find(|it| it.name == name);
    let found = found.context("not in the status")?;
    Ok((found.mode, found.reason))
}

/// The kernel of a host without tc, or which does not take tc's program: here it cannot be pinned.
#[test]
fn auto_takes_native_xdp_where_tc_is_not_to_be_had_and_stays_there() -> Result<()> {
    if !ready_or_skip("plane_hooks")? {
        return Ok(());
    }
    let bed = Bed::new(&["eth0", "eth1", "eth2"])?;
    bed.enter(|| {
        let mut engine = bed.open(Attachment::default())?;
        fs::create_dir(bed.pins.join("lbd_tc6_new"))?;
        // Together: each would have company that takes tc.
        apply(&mut engine, vec![attach_to("eth0"), attach_to("eth1")])?;
        for round in 0..3 {
            let seen = engine.observe()?.interfaces;
            ensure!(seen.len() == 2, "round {round}: {seen:?}");
            ensure!(engine.strays().is_empty(), "round {round}: {:?}", engine.strays());
        }
        // One that comes later.
        apply(&mut engine, vec![attach_to("eth2")])?;
        ensure!(engine.observe()?.interfaces.len() == 3, "{:?}", engine.strays());
        for name in ["eth0", "eth1", "eth2"] {
            let (mode, reason) = mode_and_reason(&mut engine, name)?;
            ensure!(mode == "native", "{name}: {mode}");
            ensure!(reason.contains("tc would keep its offloads, but"), "{name}: {reason}");
        }
        // By name it stays hopeless, and the other interfaces what they are.
        engine.set_attachment(Attachment::TC);
        let report = engine.apply(&Plan { operations: vec![attach_to("eth0")] });
        let failure = report.failures().next().context("it cannot be there")?;
        ensure!(failure.kind == FailureKind::Hopeless, "{failure:?}");
        Ok(())
    })?;
    bed.wait_on("eth0", [0, 1, 0])
}

/// The forwarder was killed when the new hook was there and the old one still was.
#[test]
fn half_of_a_change_of_hooks_is_finished_by_the_next_start() -> Result<()> {
    if !ready_or_skip("plane_hooks")? {
        return Ok(());
    }
    for (from, to, on) in [
        (Attachment::TC, Attachment::XDP, [0, 1, 0]),
        (Attachment::XDP, Attachment::TC, [1, 0, 0]),
        (Attachment::XDP, Attachment::default(), [1, 0, 0]),
    ] {
        let bed = Bed::new(&["eth0", "eth1", "eth2"])?;
        bed.enter(|| {
            let mut engine = bed.open(from)?;
            apply(&mut engine, vec![attach_to("eth0"), attach_to("eth1"), attach_to("eth2")])?;
            // Out of sight of the second half.
            let mut aside = Vec::new();
            for name in ["eth0", "eth1"] {
                let index = Bed::index(name)?;
                let pins = links::all(&bed.pins)?;
                let pin = pins.into_iter().find(|it| it.ifindex == index).context("no pin")?.path;
                let other = bed.pins.join(format!("aside_{index}"));
                fs::rename(&pin, &other)?;
                aside.push((other, pin));
            }
            let next = if to == Attachment::XDP { Attachment::XDP } else { Attachment::TC };
            engine.set_attachment(next);
            apply(&mut engine, vec![attach_to("eth0"), attach_to("eth1")])?;
            aside.iter().try_for_each(|(other, pin)| fs::rename(other, pin))?;
            Ok(())
        })?;
        for name in ["eth0", "eth1"] {
            ensure!(bed.on(name)? == [1, 1, 0], "{name}: {:?}", bed.on(name)?);
        }
        // Of these eth0 is wanted only.
        bed.enter(|| {
            let mut engine = bed.open(to)?;
            let seen = engine.observe()?.interfaces;
            ensure!(!seen.contains("eth0") && !seen.contains("eth1"), "{seen:?}");
            let strays = engine.strays();
            ensure!(strays.contains("eth0") && strays.contains("eth1"), "{strays:?}");
            let mut operations = vec![attach_to("eth0")];
            let others = strays.into_iter().chain(seen).filter(|name| name != "eth0");
            operations.extend(others.map(|interface| Operation::Detach { interface }));
            apply(&mut engine, operations)?;
            let seen: Vec<_> = engine.observe()?.interfaces.into_iter().collect();
            ensure!(seen == ["eth0"] && engine.strays().is_empty(), "{seen:?}");
            Ok(())
        })?;
        bed.wait_on("eth0", on).with_context(|| format!("{from:?} to {to:?}"))?;
        for name in ["eth1", "eth2"] {
            bed.wait_on(name, [0, 0, 0])?;
        }
    }
    Ok(())
}

/// What was there before a replacement that fails still is, and is known; what was not, leaves nothing.
#[test]
fn a_filter_that_cannot_be_replaced_is_not_forgotten() -> Result<()> {
    if !ready_or_skip("plane_hooks")? {
        return Ok(());
    }
    let bed = Bed::new(&["eth0"])?;
    bed.enter(|| {
        loader::open(&bed.pins, 4096)?;
        let index = Bed::index("eth0")?;
        // cls_bpf takes no program of XDP.
        let wrong = loader::pinned_program(&bed.pins, maps::PROGRAM)?;
        let pins = || fs::read_dir(bed.pins.join(LINKS)).map(|it| it.count());
        ensure!(attach::by_filter(&bed.pins, &wrong, index).is_err());
        ensure!(pins()? == 0 && !clsact::has_qdisc(index)?, "a failure left something");
        let program = loader::tc_program(&bed.pins)?;
        attach::by_filter(&bed.pins, &program, index)?;
        let name = clsact::name(&bed.pins);
        let before = clsact::filter(index, &name)?.context("our filter")?;
        ensure!(attach::by_filter(&bed.pins, &wrong, index).is_err());
        ensure!(clsact::filter(index, &name)? == Some(before));
        ensure!(pins()? == 2, "the pins of the filter and of its qdisc");
        let found = links::all(&bed.pins)?;
        ensure!(found.len() == 1 && found[0].ifindex == index, "{found:?}");
        loader::remove(&bed.pins)
    })?;
    ensure!(bed.on("eth0")? == [0, 0, 0] && !bed.has_qdisc("eth0")?);
    ensure!(!bed.pins.exists());
    Ok(())
}

/// One pin that cannot be read keeps nothing else.
#[test]
fn a_stop_takes_off_what_it_can() -> Result<()> {
    if !ready_or_skip("plane_hooks")? {
        return Ok(());
    }
    let bed = Bed::new(&["eth0", "eth1"])?;
    let obstacle = bed.pins.join(LINKS).join("native-1");
    bed.enter(|| {
        loader::open(&bed.pins, 4096)?;
        let program = loader::tc_program(&bed.pins)?;
        for name in ["eth0", "eth1"] {
            attach::by_filter(&bed.pins, &program, Bed::index(name)?)?;
        }
        fs::create_dir(&obstacle)?;
        ensure!(links::all(&bed.pins).is_err(), "it is no obstacle");
        ensure!(loader::remove(&bed.pins).is_err(), "what is left is said");
        Ok(())
    })?;
    for name in ["eth0", "eth1"] {
        ensure!(bed.on(name)? == [0, 0, 0] && !bed.has_qdisc(name)?, "{name}");
    }
    // Nor does what is left hold up a start.
    fs::remove_dir(&obstacle)?;
    bed.enter(|| {
        let mut engine = bed.open(Attachment::TC)?;
        apply(&mut engine, vec![attach_to("eth0")])?;
        engine.close()
    })
}

/// A filter whose maps are gone, as after a stop that could not take it off.
#[test]
fn remains_of_a_stop_are_cleared_by_the_next_start() -> Result<()> {
    if !ready_or_skip("plane_hooks")? {
        return Ok(());
    }
    let bed = Bed::new(&["eth0"])?;
    bed.enter(|| {
        loader::open(&bed.pins, 4096)?;
        let program = loader::tc_program(&bed.pins)?;
        attach::by_filter(&bed.pins, &program, Bed::index("eth0")?)?;
        for entry in fs::read_dir(&bed.pins)?.flatten() {
            if entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
            }
        }
        ensure!(links::all(&bed.pins)?.len() == 1);
        bed.open(Attachment::XDP)?.close()
    })?;
    ensure!(bed.on("eth0")? == [0, 0, 0] && !bed.has_qdisc("eth0")?);
    Ok(())
}

/// Our filter was removed by somebody: the qdisc that we made goes too, and the next round puts both back.
#[test]
fn a_qdisc_of_ours_does_not_outlive_its_filter_and_another_s_stays() -> Result<()> {
    if !ready_or_skip("plane_hooks")? {
        return Ok(());
    }
    let bed = Bed::new(&["eth0", "eth1"])?;
    bed.netns.run("tc", &["qdisc", "add", "dev", "eth1", "clsact"])?;
    let put = || {
        bed.enter(|| {
            loader::open(&bed.pins, 4096)?;
            let program = loader::tc_program(&bed.pins)?;
            for name in ["eth0", "eth1"] {
                attach::by_filter(&bed.pins, &program, Bed::index(name)?)?;
            }
            Ok(())
        })
    };
    put()?;
    for name in ["eth0", "eth1"] {
        bed.netns.run("tc", &["filter", "del", "dev", name, "ingress"])?;
    }
    bed.enter(|| {
        let mut engine = bed.open(Attachment::TC)?;
        ensure!(engine.observe()?.interfaces.is_empty());
        let left = fs::read_dir(bed.pins.join(LINKS))?.flatten().map(|it| it.file_name());
        let left: Vec<_> = left.collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    ensure!(!bed.has_qdisc("eth0")?, "it was ours");
    ensure!(bed.has_qdisc("eth1")?, "it was another's");
    // The same when nobody looks before the stop.
    put()?;
    bed.netns.run("tc", &["filter", "del", "dev", "eth0", "ingress"])?;
    bed.enter(|| loader::remove(&bed.pins))?;
    ensure!(!bed.has_qdisc("eth0")? && bed.has_qdisc("eth1")?);
    ensure!(!bed.pins.exists());
    Ok(())
}

/// What another's filter drops or takes for itself would not be fenced.
#[test]
fn our_filter_comes_before_those_of_others() -> Result<()> {
    if !ready_or_skip("plane_hooks")? {
        return Ok(());
    }
    let bed = Bed::new(&["eth0"])?;
    bed.netns.run("tc", &["qdisc", "add", "dev", "eth0", "clsact"])?;
    let add = |priority: &str| {
        let others = [
            "filter", "add", "dev", "eth0", "ingress", "pref", priority, "protocol", "ip", "u32",
            "match", "u32", "0", "0", "flowid", "1:1",
        ];
        bed.netns.run("tc", &others).map(drop)
    };
    let order = || -> Result<Vec<bool>> {
        let list = bed.netns.run("tc", &["filter", "show", "dev", "eth0", "ingress"])?;
        let entries =
            list.lines().filter(|line| line.contains(" handle ") || line.contains(" fh "));
        Ok(entries.map(|line| line.contains("lbd_tc")).collect())
    };
    let put = || {
        bed.enter(|| {
            loader::open(&bed.pins, 4096)?;
            let program = loader::tc_program(&bed.pins)?;
            attach::by_filter(&bed.pins, &program, Bed::index("eth0")?)?;
            Ok(())
        })
    };
    add("2")?;
    add("49152")?;
    put()?;
    let first = order()?;
    ensure!(
        first.first() == Some(&true) && first.iter().filter(|it| **it).count() == 1,
        "{first:?}"
    );
    bed.enter(|| loader::remove(&bed.pins))?;
    // Where another has the first place, ours comes after it and is there all the same.
    add("1")?;
    put()?;
    let behind = order()?;
    ensure!(behind.first() == Some(&false) && behind.contains(&true), "{behind:?}");
    bed.enter(|| loader::remove(&bed.pins))?;
    let left = order()?;
    ensure!(left.len() >= 3 && !left.contains(&true), "{left:?}");
    ensure!(bed.has_qdisc("eth0")?);
    Ok(())
}

/// Whose target lies in a part of the packet that the program cannot read where it lies.
#[test]
fn a_solicitation_in_pieces_is_fenced() -> Result<()> {
    const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x100);
    const ASKER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    const FRAMES: u64 = 20;
    if !ready_or_skip("plane_hooks")? {
        return Ok(());
    }
    let bed = Bed::new(&["eth0"])?;
    for name in ["eth0", "peer0"] {
        bed.netns.ip(&["link", "set", name, "mtu", "9000", "up"])?;
    }
    // Options behind the target make it longer than a page: shorter ones go in one piece.
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(VIP.octets());
    message.resize(4400, 0);
    let group = lb_common::abi::Addr::new(VIP.octets()).solicited_node().octets().into();
    bed.enter(|| {
        let mut engine = bed.open(Attachment::TC)?;
        let slot = LeaseSlot(1);
        let guard = Operation::SetVip { vip: VIP.into(), slot };
        apply(&mut engine, vec![attach_to("eth0"), guard])?;
        LeaseWriter::open(&bed.pins)?.set(slot, LeaseState::Until(Instant::ZERO))?;
        for (extensions, linear) in [(&[][..], 14), (&[(HOP_BY_HOP, 8), (DESTINATION, 64)][..], 54)]
        {
            let frame = ipv6((ASKER, group), extensions, 58, &message);
            let count = |engine: &mut Xdp| -> Result<u64> {
                engine.counters()?.get("fenced_nd").copied().context("no such outcome")
            };
            let before = count(&mut engine)?;
            for _ in 0..FRAMES {
                send_in_pieces(Bed::index("peer0")?, &frame, linear)?;
            }
            wait_until(
                "the solicitations to be fenced",
                Duration::from_secs(10),
                || Ok((count(&mut engine)? == before + FRAMES).then_some(())),
                || format!("{extensions:?}, {linear} bytes in one piece"),
            )?;
        }
        engine.close()
    })
}
