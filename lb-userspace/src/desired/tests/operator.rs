//! What the operator decides beside the configuration.

use super::*;

/// The last word counts, whatever it is about: one virtual server or all.
#[test]
fn the_operators_last_word_counts() {
    let (one, other) = (key(VIP), key("192.0.2.11:3306"));
    let (drain, until) = (AdminState::Drain, AdminState::DrainUntil(at(9)));
    let mut admin = Admin::default();
    admin.drain(Some(one), addr(DB1), None);
    admin.drain(None, addr(DB1), Some(at(9)));
    assert_eq!(admin.get(one, addr(DB1)), Some(until));
    admin.drain(Some(other), addr(DB1), None);
    assert_eq!([one, other].map(|key| admin.get(key, addr(DB1))), [Some(until), Some(drain)]);
    // To take one virtual server out leaves each other one its own word.
    let mut scene = Scene::new();
    let mut second = scene.vs().clone();
    second.key = other;
    scene.config.virtual_servers.push(second);
    admin.enable(&scene.config, Some(one), addr(DB1));
    assert_eq!([one, other].map(|key| admin.get(key, addr(DB1))), [None, Some(drain)]);
}

#[test]
fn operator_decisions_survive_json_and_reload() {
    let scene = Scene::new();
    let mut two = scene.config.clone();
    two.virtual_servers.push(vs("192.0.2.11:3306"));
    let other = key("192.0.2.11:3306");
    let mut admin = Admin::default();
    admin.drain(None, addr(DB1), None);
    admin.drain(Some(other), addr(DB2), Some(at(7)));
    let text = serde_json::to_string(&admin).expect("json");
    assert_eq!(serde_json::from_str::<Admin>(&text).expect("json"), admin);
    let mut timeless = admin.clone();
    timeless.forget_times();
    assert_eq!(timeless.get(key(VIP), addr(DB1)), Some(AdminState::Drain));
    assert_eq!(timeless.get(other, addr(DB2)), Some(AdminState::Drain), "no end");
    // Enabled in one of two: the other stays drained.
    admin.enable(&two, Some(key(VIP)), addr(DB1));
    assert_eq!(admin.get(key(VIP), addr(DB1)), None);
    assert_eq!(admin.get(other, addr(DB1)), Some(AdminState::Drain));
    // The second virtual server leaves the configuration.
    admin.reload(&scene.config);
    assert_eq!(admin, Admin::default());
    admin.drain(Some(key(VIP)), addr(DB1), None);
    admin.enable(&two, None, addr(DB1));
    assert_eq!(admin, Admin::default());
}

#[test]
fn a_changed_weight_in_the_file_beats_an_older_verdict() {
    let mut scene = Scene::new();
    scene.health.set(key(VIP), addr(DB1), Health::Up, 3, at(0));
    scene.health.set(key(VIP), addr(DB2), Health::Up, 4, at(0));
    let old = scene.config.clone();
    scene.vs().real_servers[0].weight = 20;
    let new = scene.config.clone();
    scene.health.reload(&old, &new);
    assert_eq!(scene.server(DB1).map(|s| s.weight), Some(20));
    assert_eq!(scene.server(DB2).map(|s| s.weight), Some(4), "untouched means untouched");
    let empty = Config::default();
    scene.health.reload(&new, &empty);
    assert_eq!(scene.health, HealthBook::default());
}
