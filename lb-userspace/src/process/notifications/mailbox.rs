//! Mails on their way to the api role, which speaks to the mail server: pure bookkeeping. A mail
//! stays here until its sender says what became of it, so that a restarted sender gets it again.

use std::collections::VecDeque;

use crate::vrrp::notify::Mail;

/// Mails that wait. At the bound the oldest is dropped and counted.
pub const MAIL_LIMIT: usize = 64;

/// What became of mails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub sent: u64,
    /// Given up after the last attempt.
    pub failed: u64,
    /// Pushed out by newer ones.
    pub dropped: u64,
}

/// Mails in order.
#[derive(Debug, Default)]
pub struct Mailbox {
    next: u64,
    waiting: VecDeque<(u64, Mail)>,
    /// So many of the first are with the sender.
    handed: usize,
    pub counters: Counters,
}

impl Mailbox {
    /// Adds a mail; the one that was dropped for it.
    pub fn push(&mut self, mail: Mail) -> Option<Mail> {
        self.next += 1;
        self.waiting.push_back((self.next, mail));
        if self.waiting.len() <= MAIL_LIMIT {
            return None;
        }
        self.counters.dropped += 1;
        // What is with the sender may arrive yet.
        self.waiting.remove(self.handed).map(|(_, mail)| mail)
    }

    /// The mail to hand to the sender now; `None`: it has one, or there is none.
    pub fn hand(&mut self) -> Option<(u64, Mail)> {
        if self.handed > 0 {
            return None;
        }
        let first = self.waiting.front().cloned();
        self.handed = usize::from(first.is_some());
        first
    }

    /// All that the sender does not have yet: at the stop, when nobody will be there to hand them
    /// out one by one.
    pub fn hand_rest(&mut self) -> Vec<(u64, Mail)> {
        let rest = self.waiting.iter().skip(self.handed).cloned().collect();
        self.handed = self.waiting.len();
        rest
    }

    /// The sender is done with a mail.
    pub fn done(&mut self, id: u64, sent: bool) {
        if self.handed > 0 && self.waiting.front().is_some_and(|(first, _)| *first == id) {
            self.waiting.pop_front();
            self.handed -= 1;
            if sent {
                self.counters.sent += 1;
            } else {
                self.counters.failed += 1;
            }
        }
    }

    /// The sender is gone: what it had is handed out again.
    pub fn sender_gone(&mut self) {
        self.handed = 0;
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Nothing waits and nothing is being sent.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(n: usize) -> Mail {
        Mail { subject: n.to_string(), text: String::new() }
    }

    #[test]
    fn one_at_a_time_in_order_and_again_after_the_senders_death() {
        let mut mailbox = Mailbox::default();
        mailbox.push(mail(1));
        mailbox.push(mail(2));
        assert_eq!(mailbox.hand(), Some((1, mail(1))));
        assert_eq!(mailbox.hand(), None);
        mailbox.sender_gone();
        assert_eq!(mailbox.hand(), Some((1, mail(1))));
        mailbox.done(9, true);
        assert_eq!(mailbox.hand(), None, "9 was never handed out");
        mailbox.done(1, true);
        assert_eq!(mailbox.hand(), Some((2, mail(2))));
        mailbox.done(2, false);
        assert!(mailbox.is_empty());
        assert_eq!(mailbox.counters, Counters { sent: 1, failed: 1, dropped: 0 });
    }

    #[test]
    fn at_the_stop_the_sender_gets_the_rest() {
        let mut mailbox = Mailbox::default();
        for n in 1..=3 {
            mailbox.push(mail(n));
        }
        assert_eq!(mailbox.hand(), Some((1, mail(1))));
        assert_eq!(mailbox.hand_rest(), [(2, mail(2)), (3, mail(3))]);
        assert_eq!(mailbox.hand_rest(), []);
        for id in 1..=2 {
            mailbox.done(id, true);
            assert_eq!(mailbox.hand(), None, "the sender has what is left");
        }
        mailbox.done(3, true);
        assert!(mailbox.is_empty());
        mailbox.push(mail(4));
        assert_eq!(mailbox.hand(), Some((4, mail(4))));
    }

    #[test]
    fn the_oldest_that_waits_makes_room() {
        let mut mailbox = Mailbox::default();
        mailbox.push(mail(0));
        mailbox.hand();
        for n in 1..MAIL_LIMIT {
            assert_eq!(mailbox.push(mail(n)), None);
        }
        assert_eq!(mailbox.push(mail(99)), Some(mail(1)), "0 is being sent");
        mailbox.done(1, true);
        assert_eq!(mailbox.hand(), Some((3, mail(2))));
        assert_eq!((mailbox.len(), mailbox.counters.dropped), (MAIL_LIMIT - 1, 1));
    }
}
