//! L1: the difference between an observed and a desired table, as ordered operations.

use crate::base::table::ForwardingTable;

/// Operations that turn one table into another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan;

/// Operations that turn `observed` into `desired`.
pub fn plan(_observed: &ForwardingTable, _desired: &ForwardingTable) -> Plan {
    Plan
}
