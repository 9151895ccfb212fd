//! Virtual MACs on both hosts of a pair, beside real keepalived and beside lbd, through a clean stop,
//! a kill and the returns: one master at every instant, takeover within the protocol's bound. Frames from
//! the MAC that both have reach their macvlan alone (`vrrp_vmac` shows what lbd makes of them).

use anyhow::{Result, ensure};
use lb_tests::{
    host::Program::{self, Keepalived, Lbd},
    interop::{
        HIGH, LOW, Pair,
        form::{
            Cast::Multi,
            Family::{self, V4, V6},
            Form,
            Protocol::{self, V2Ah, V2Pass, V3},
        },
        lives,
    },
    netns::ready_or_skip,
};

const VMAC: &str = "    use_vmac\n";
const FROM_BASE: &str = "    use_vmac\n    vmac_xmit_base\n";

fn live(
    protocol: Protocol,
    family: Family,
    programs: [Program; 2],
    words: [&str; 2],
) -> Result<()> {
    if !ready_or_skip("interop_vmac")? {
        return Ok(());
    }
    let mut pair = Pair::start_with(Form { protocol, family, cast: Multi }, programs, words)?;
    lives::stop_and_kill(&mut pair)?;
    for host in [HIGH, LOW] {
        if pair.host(host).program() == Lbd {
            let status = pair.host(host).status()?;
            let Some(instance) = status.vrrp.first() else { continue };
            let counters = &instance.counters;
            // Each advert once: a second time behind AH would be a replay.
            ensure!(counters.discarded.is_empty(), "host {host}: {counters:?}");
            ensure!(host == HIGH || counters.advert_rcvd > 0, "host {host}: {counters:?}");
        }
    }
    Ok(())
}

macro_rules! pairs {
    ($(fn $name:ident = $protocol:expr, $family:expr, $programs:expr, $words:expr;)*) => {$(
        #[test]
        #[ignore = "needs root: cargo xtask test"]
        fn $name() -> Result<()> {
            live($protocol, $family, $programs, $words)
        }
    )*};
}

pairs! {
    fn v3_two_lbd = V3, V4, [Lbd, Lbd], [VMAC, VMAC];
    fn v3_two_lbd_one_from_its_base = V3, V4, [Lbd, Lbd], [VMAC, FROM_BASE];
    fn v3_lbd_is_higher = V3, V4, [Lbd, Keepalived], [VMAC, VMAC];
    fn v3_keepalived_is_higher = V3, V4, [Keepalived, Lbd], [VMAC, VMAC];
    fn v3_keepalived_without_is_higher = V3, V4, [Keepalived, Lbd], ["", VMAC];
    fn v3_keepalived_beside_none_is_higher = V3, V4, [Keepalived, Lbd], [VMAC, ""];
    fn v3_ipv6_two_lbd = V3, V6, [Lbd, Lbd], [VMAC, VMAC];
    fn v3_ipv6_lbd_is_higher = V3, V6, [Lbd, Keepalived], [VMAC, VMAC];
    fn v3_ipv6_keepalived_is_higher = V3, V6, [Keepalived, Lbd], [VMAC, VMAC];
    fn v2_pass_lbd_is_higher = V2Pass, V4, [Lbd, Keepalived], [VMAC, VMAC];
    fn v2_pass_keepalived_is_higher = V2Pass, V4, [Keepalived, Lbd], [VMAC, VMAC];
    fn v2_ah_two_lbd = V2Ah, V4, [Lbd, Lbd], [VMAC, VMAC];
    fn v2_ah_lbd_is_higher = V2Ah, V4, [Lbd, Keepalived], [VMAC, VMAC];
    fn v2_ah_keepalived_is_higher = V2Ah, V4, [Keepalived, Lbd], [VMAC, VMAC];
    fn v3_two_keepalived_are_the_yardstick = V3, V4, [Keepalived; 2], [VMAC, VMAC];
}
