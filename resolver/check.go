package resolver

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/roam-go/roam/transport"
)

// Limits of a [Record] and a [Host]. [Check], [CheckName] and [CheckAnnouncement] return [ErrInvalid] beyond them.
const (
	// MaxMembers limits the in-sync set of a record.
	MaxMembers = 16
	// RestoreStep is the least number of epochs by which a change restores a lost record. So a restore is told from other
	// changes, and no change that was proposed before the loss can be made after it.
	RestoreStep = MaxMembers
	// MaxHostID limits the ID of a host, in bytes.
	MaxHostID = 128

	maxName     = 253     // bytes of a service's name
	maxAddr     = 256     // bytes of an address
	maxServices = 1 << 17 // names in an announcement
	maxTTL      = time.Minute

	// maxNumber is the highest version, epoch, incarnation and so on: the largest integer that every language with
	// 64-bit floating-point numbers represents exactly.
	maxNumber = 1<<53 - 1
)

// Check returns an error if next must not follow cur (nil: there is no record): [ErrInvalid] if next is malformed,
// [ErrRefused] if next.Proposer may not make that change. It is a pure function. Every [Resolver] applies it, and compares
// and sets Generation and Version itself: Check ignores them.
//
// The kind of a change follows from the fields that differ:
//
//	create   by any host if there is no record: Epoch 1, any Loss, Active = Proposer, ISR = {Proposer}
//	recreate by any host after the service was retired: Loss and Epoch one higher, Active = Proposer, ISR = {Proposer}
//	add, remove, replace
//	         by the active: one member of ISR other than the active changes. A replace substitutes another incarnation
//	         of the same host ID
//	promote  by another member of ISR: Epoch one higher, Active = Proposer, ISR unchanged or without the old active
//	renew    by the active: Epoch one higher, ISR unchanged. The active has restarted with its log from disk and must
//	         not continue an epoch of which it may have lost entries
//	address  by the active: another Addr for members, which have reported it
//	cancel   by the active: only Proposer and Nonce change, so that an earlier change in flight fails
//	retire   by the active, when the last host ends the service: Active is the zero Host and ISR is empty
//	reset    by any host, dangerous: Loss and Epoch one higher, Active = Proposer, ISR = {Proposer}. The state of the
//	         previous members is lost. If the resolver has lost the record, any Loss and any Epoch
//	restore  by any host, dangerous: Epoch at least [RestoreStep] higher, Loss not lower, Active = Proposer, any ISR. The
//	         hosts that hold the state bring back a record that the resolver has lost, or of which it has an old version
//
// A host here is one incarnation: equal ID and Incarnation. While it is a member its Key does not change, and only the host
// itself and the active may change its Addr. Active is in ISR.
//
// Under these rules (Loss, Epoch) never decreases, and it increases whenever another incarnation becomes active.
func Check(cur *Record, next Record) error {
	if err := validate(next); err != nil {
		return err
	}
	return legal(cur, next)
}

// legal is [Check] for a well-formed next.
func legal(cur *Record, next Record) error {
	if cur == nil {
		switch {
		case next.Epoch >= RestoreStep && next.Active == next.Proposer:
			return nil
		case next.Loss == 0 && next.Epoch != 1:
			return refuse(next, "create it in epoch %d: the first epoch is 1", next.Epoch)
		}
		return checkFresh(next, "create")
	}
	if cur.Name != next.Name {
		return refuse(next, "change the name %q of the record", cur.Name)
	}
	if isRestore(cur, next) {
		return nil
	}
	if next.Loss != cur.Loss {
		if next.Loss != cur.Loss+1 || next.Epoch != cur.Epoch+1 {
			return refuse(next, "go from loss %d, epoch %d to loss %d, epoch %d: a reset raises each by one",
				cur.Loss, cur.Epoch, next.Loss, next.Epoch)
		}
		return checkFresh(next, "reset")
	}
	if cur.Active.isZero() {
		return refuse(next, "change it: the service was retired, and starts again only with loss %d and epoch %d",
			cur.Loss+1, cur.Epoch+1)
	}
	by := member(cur.ISR, next.Proposer)
	if by < 0 {
		return refuse(next, "change it: the host is not in the in-sync set %s", hosts(cur.ISR))
	}
	if cur.ISR[by].Key != next.Proposer.Key {
		return refuse(next, "change its key from %q to %q", cur.ISR[by].Key, next.Proposer.Key)
	}
	for _, h := range next.ISR {
		// Members do not change, except for the address: the proposer may change its own, the active also those of others.
		i := member(cur.ISR, h)
		if i < 0 || h == cur.ISR[i] || h == next.Proposer {
			continue
		}
		if h.Key != cur.ISR[i].Key || !next.Proposer.Same(cur.Active) {
			return refuse(next, "change the address or key of member %s", h.label())
		}
	}
	if next.Proposer.Same(cur.Active) {
		return checkActive(cur, next)
	}
	return checkPromote(cur, next)
}

// isRestore reports whether next brings back a record of which the resolver has the old version cur.
func isRestore(cur *Record, next Record) bool {
	return next.Loss >= cur.Loss && next.Epoch >= cur.Epoch+RestoreStep && next.Active == next.Proposer
}

// isReset reports whether a legal change from cur (nil: there is no record) to next may give up the state of the members: a
// reset, or a restore by a host that cur does not name as a member.
func isReset(cur *Record, next Record) bool {
	switch {
	case cur == nil:
		return next.Epoch > 1 || len(next.ISR) > 1
	case cur.Active.isZero():
		return false
	case isRestore(cur, next):
		i := member(cur.ISR, next.Proposer)
		return i < 0 || cur.ISR[i].Key != next.Proposer.Key
	}
	return next.Loss != cur.Loss
}

// checkFresh checks the common part of create, recreate and reset: the proposer starts alone.
func checkFresh(next Record, kind string) error {
	if next.Active != next.Proposer || len(next.ISR) != 1 || next.ISR[0] != next.Proposer {
		return refuse(next, "%s it with %s active and in-sync set %s: the proposer must be the active and the only member",
			kind, next.Active.label(), hosts(next.ISR))
	}
	return nil
}

// checkActive checks a change by the active: add, remove, replace, renew, address, cancel or retire.
func checkActive(cur *Record, next Record) error {
	if next.Epoch == cur.Epoch+1 && next.Active.Same(cur.Active) {
		return checkRenew(cur, next)
	}
	if next.Epoch != cur.Epoch {
		return refuse(next, "go from epoch %d to %d: the active stays in its epoch", cur.Epoch, next.Epoch)
	}
	if next.Active.isZero() {
		return nil // Retired; validate has checked that the in-sync set is empty.
	}
	if !next.Active.Same(cur.Active) {
		return refuse(next, "make %s active: a host only promotes itself", next.Active.label())
	}
	var gone, come int
	for _, h := range cur.ISR {
		if member(next.ISR, h) < 0 {
			gone++
		}
	}
	var added Host
	for _, h := range next.ISR {
		if member(cur.ISR, h) < 0 {
			come++
			added = h
		}
	}
	// A replace keeps the host ID. IDs are unique, so the ID must be one of cur's.
	replaced := gone == 1 && come == 1 && hasID(cur.ISR, added.ID)
	if gone+come > 1 && !replaced {
		return refuse(next, "change the in-sync set from %s to %s: it changes by one member at a time",
			hosts(cur.ISR), hosts(next.ISR))
	}
	return nil
}

// checkRenew checks that only the epoch changes.
func checkRenew(cur *Record, next Record) error {
	same := len(next.ISR) == len(cur.ISR)
	for _, h := range next.ISR {
		same = same && member(cur.ISR, h) >= 0
	}
	if !same {
		return refuse(next, "change the in-sync set from %s to %s in a new epoch of its own", hosts(cur.ISR), hosts(next.ISR))
	}
	return nil
}

// checkPromote checks a change by a member that is not the active, which can only make itself active.
func checkPromote(cur *Record, next Record) error {
	if next.Epoch != cur.Epoch+1 {
		return refuse(next, "go from epoch %d to %d: %s is active, and a promotion raises the epoch by one",
			cur.Epoch, next.Epoch, cur.Active.label())
	}
	if next.Active != next.Proposer {
		return refuse(next, "make %s active: a host only promotes itself", next.Active.label())
	}
	for _, h := range next.ISR {
		if member(cur.ISR, h) < 0 {
			return refuse(next, "add %s in a promotion: only the active adds members", h.label())
		}
	}
	for _, h := range cur.ISR {
		if member(next.ISR, h) < 0 && !h.Same(cur.Active) {
			return refuse(next, "remove %s in a promotion: only the old active may be left out", h.label())
		}
	}
	return nil
}

// validate checks a record by itself.
func validate(r Record) error {
	if err := CheckName(r.Name); err != nil {
		return err
	}
	for _, n := range []struct {
		name  string
		value uint64
		min   uint64
	}{{"gen", r.Generation, 0}, {"ver", r.Version, 0}, {"loss", r.Loss, 0}, {"epoch", r.Epoch, 1}, {"nonce", r.Nonce, 1}} {
		if n.value < n.min || n.value > maxNumber {
			return invalid("service %q: %s %d is not in %d..2^53-1", r.Name, n.name, n.value, n.min)
		}
	}
	if err := validateHost(r.Proposer); err != nil {
		return invalid("service %q: by: %s", r.Name, strings.TrimPrefix(err.Error(), "resolver: "))
	}
	if len(r.ISR) > MaxMembers {
		return invalid("service %q: %d hosts in the in-sync set, more than %d", r.Name, len(r.ISR), MaxMembers)
	}
	for i, h := range r.ISR {
		if err := validateHost(h); err != nil {
			return invalid("service %q: isr: %s", r.Name, strings.TrimPrefix(err.Error(), "resolver: "))
		}
		if hasID(r.ISR[:i], h.ID) {
			return invalid("service %q: host %q appears twice in the in-sync set", r.Name, h.ID)
		}
	}
	if r.Active.isZero() {
		if len(r.ISR) > 0 {
			return invalid("service %q: an in-sync set %s without an active host", r.Name, hosts(r.ISR))
		}
		return nil
	}
	if i := member(r.ISR, r.Active); i < 0 || r.ISR[i] != r.Active {
		return invalid("service %q: the active host %s is not in the in-sync set %s with the same address and key",
			r.Name, r.Active.label(), hosts(r.ISR))
	}
	return nil
}

// CheckName returns an error that is [ErrInvalid] if name is not a valid name of a service. A name has 1 to 253 bytes of
// UTF-8. Its characters are printable as defined by [unicode.IsPrint], and not spaces. Names are compared byte by byte:
// upper and lower case differ, and so do different encodings of one character.
//
// Every [Resolver] checks the names that it gets. Use CheckName to validate a name up front.
func CheckName(name string) error {
	if problem := badText(name, 1, maxName); problem != "" {
		return invalid("service name %.300q %s", name, problem)
	}
	return nil
}

// CheckAnnouncement returns an error that is [ErrInvalid] if a [Resolver] must refuse an announcement with these arguments:
// the ID of the host has 1 to [MaxHostID] bytes of the characters that [CheckName] allows, its address up to 256 of them,
// the incarnation is 1 to 2^53-1, ttl is 0 to 1 minute, and there are at most 131,072 services.
func CheckAnnouncement(h Host, services []string, ttl time.Duration) error {
	if err := validateHost(h); err != nil {
		return err
	}
	if ttl < 0 || ttl > maxTTL {
		return invalid("host %q: ttl %v is not in 0..%v", h.ID, ttl, maxTTL)
	}
	if len(services) > maxServices {
		return invalid("host %q: %d services announced, more than %d", h.ID, len(services), maxServices)
	}
	for _, name := range services {
		if err := CheckName(name); err != nil {
			return invalid("host %q: %s", h.ID, strings.TrimPrefix(err.Error(), "resolver: "))
		}
	}
	return nil
}

// validateHost checks a host other than the zero Host.
func validateHost(h Host) error {
	if problem := badText(h.ID, 1, MaxHostID); problem != "" {
		return invalid("host id %.300q %s", h.ID, problem)
	}
	if h.Incarnation == 0 || h.Incarnation > maxNumber {
		return invalid("host %q: incarnation %d is not in 1..2^53-1", h.ID, h.Incarnation)
	}
	if problem := badText(h.Addr, 0, maxAddr); problem != "" {
		return invalid("host %q: address %.300q %s", h.ID, h.Addr, problem)
	}
	return nil
}

// badText describes the fault of s, "" if there is none.
func badText(s string, least, most int) string {
	if len(s) < least || len(s) > most {
		return "has " + strconv.Itoa(len(s)) + " bytes, not " + strconv.Itoa(least) + ".." + strconv.Itoa(most)
	}
	if !utf8.ValidString(s) {
		return "is not UTF-8"
	}
	for _, r := range s {
		if '!' <= r && r <= '~' {
			continue // the common case, fast
		}
		if r == ' ' || !unicode.IsPrint(r) { // IsPrint accepts no other space.
			return "contains " + strconv.QuoteRune(r) + ", a space or an unprintable character"
		}
	}
	return ""
}

// member returns the index of h's incarnation in hs, or -1.
func member(hs []Host, h Host) int {
	for i := range hs {
		if hs[i].Same(h) {
			return i
		}
	}
	return -1
}

func hasID(hs []Host, id string) bool {
	for i := range hs {
		if hs[i].ID == id {
			return true
		}
	}
	return false
}

func (h Host) isZero() bool { return h == Host{} }

// label formats h for an error: "host-a/17".
func (h Host) label() string {
	if h.isZero() {
		return "no host"
	}
	return h.ID + "/" + strconv.FormatUint(h.Incarnation, 10)
}

// hosts formats hs for an error: "{host-a/17 host-b/4}".
func hosts(hs []Host) string {
	labels := make([]string, len(hs))
	for i, h := range hs {
		labels[i] = h.label()
	}
	return "{" + strings.Join(labels, " ") + "}"
}

// refuse returns the error of a proposer that may not do what the format describes.
func refuse(next Record, format string, args ...any) error {
	return transport.Errorf(CodeRefused, "resolver: service %q: host %s may not "+format,
		append([]any{next.Name, next.Proposer.label()}, args...)...)
}

func invalid(format string, args ...any) error {
	return transport.Errorf(CodeInvalid, "resolver: "+format, args...)
}
