//! lbd beside real keepalived in every form that their adverts can have, whichever of the two has
//! the higher priority, through everything that moves a VIP ([`lives`]): one master at every
//! instant after convergence, takeover within the protocol's own bound. One test a pair.
//!
//! Over IPv6 keepalived 2.2.7 speaks VRRPv3, and with `version 2` in the instance a VRRPv2
//! without authentication. AH is ignored there by both, which the pairs with AH over IPv6 show. PASS over IPv6
//! is the one form without a pair: the first such advert ends keepalived 2.2.7 by SIGSEGV (lbd ignores the word
//! there and sends none).

use anyhow::Result;
use lb_tests::{
    host::Program,
    interop::{
        form::{
            Cast::{Multi, Uni},
            Family::{V4, V6},
            Form,
            Protocol::{V2, V2Ah, V2Pass, V3},
        },
        lives,
    },
    netns::ready_or_skip,
};

/// Who has the higher priority, and who the lower.
const LBD: [Program; 2] = [Program::Lbd, Program::Keepalived];
const KEEPALIVED: [Program; 2] = [Program::Keepalived, Program::Lbd];

/// The measure itself: two keepalived agree, and the sampler sees their hand-overs.
const YARDSTICK: [Program; 2] = [Program::Keepalived; 2];

macro_rules! pairs {
    ($(fn $name:ident = $protocol:expr, $family:expr, $cast:expr, $higher:expr;)*) => {$(
        #[test]
        #[ignore = "needs root: cargo xtask test"]
        fn $name() -> Result<()> {
            if !ready_or_skip("interop_matrix")? {
                return Ok(());
            }
            let form = Form { protocol: $protocol, family: $family, cast: $cast };
            lives::live(form, $higher)
        }
    )*};
}

pairs! {
    fn v2_multicast_lbd_is_higher = V2, V4, Multi, LBD;
    fn v2_multicast_keepalived_is_higher = V2, V4, Multi, KEEPALIVED;
    fn v2_unicast_lbd_is_higher = V2, V4, Uni, LBD;
    fn v2_unicast_keepalived_is_higher = V2, V4, Uni, KEEPALIVED;
    fn v2_pass_multicast_lbd_is_higher = V2Pass, V4, Multi, LBD;
    fn v2_pass_multicast_keepalived_is_higher = V2Pass, V4, Multi, KEEPALIVED;
    fn v2_pass_unicast_lbd_is_higher = V2Pass, V4, Uni, LBD;
    fn v2_pass_unicast_keepalived_is_higher = V2Pass, V4, Uni, KEEPALIVED;
    fn v2_pass_keepalived_pair_is_the_yardstick = V2Pass, V4, Multi, YARDSTICK;
    fn v2_ah_multicast_lbd_is_higher = V2Ah, V4, Multi, LBD;
    fn v2_ah_multicast_keepalived_is_higher = V2Ah, V4, Multi, KEEPALIVED;
    fn v2_ah_unicast_lbd_is_higher = V2Ah, V4, Uni, LBD;
    fn v2_ah_unicast_keepalived_is_higher = V2Ah, V4, Uni, KEEPALIVED;
    fn v2_ah_ipv6_multicast_lbd_is_higher = V2Ah, V6, Multi, LBD;
    fn v2_ah_ipv6_multicast_keepalived_is_higher = V2Ah, V6, Multi, KEEPALIVED;
    fn v2_ah_ipv6_unicast_lbd_is_higher = V2Ah, V6, Uni, LBD;
    fn v2_ah_ipv6_unicast_keepalived_is_higher = V2Ah, V6, Uni, KEEPALIVED;
    fn v2_ipv6_multicast_lbd_is_higher = V2, V6, Multi, LBD;
    fn v2_ipv6_multicast_keepalived_is_higher = V2, V6, Multi, KEEPALIVED;
    fn v2_ipv6_unicast_lbd_is_higher = V2, V6, Uni, LBD;
    fn v2_ipv6_unicast_keepalived_is_higher = V2, V6, Uni, KEEPALIVED;
    fn v3_multicast_lbd_is_higher = V3, V4, Multi, LBD;
    fn v3_multicast_keepalived_is_higher = V3, V4, Multi, KEEPALIVED;
    fn v3_unicast_lbd_is_higher = V3, V4, Uni, LBD;
    fn v3_unicast_keepalived_is_higher = V3, V4, Uni, KEEPALIVED;
    fn v3_ipv6_multicast_lbd_is_higher = V3, V6, Multi, LBD;
    fn v3_ipv6_multicast_keepalived_is_higher = V3, V6, Multi, KEEPALIVED;
    fn v3_ipv6_unicast_lbd_is_higher = V3, V6, Uni, LBD;
    fn v3_ipv6_unicast_keepalived_is_higher = V3, V6, Uni, KEEPALIVED;
}
