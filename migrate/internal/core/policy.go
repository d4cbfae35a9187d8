package core

import (
	"fmt"
	"slices"
	"strings"

	"github.com/roam-go/roam/resolver"
)

// Each host applies its own policy while it is active. Hosts with different policies would change a service's guarantee with
// each move, so they report the difference: the active host sends its numbers with MsgInvite and MsgRecord, and a host with
// others answers with MsgPolicy. Between hosts with equal policies, this takes no message.

// Policy holds the numbers of a host's policy that determine the guarantee of a service.
type Policy struct {
	Copies    uint64 // wanted number of hosts that hold the state, including the active one
	MinInSync uint64 // number of hosts that must hold a command before it is acknowledged, at least 1
}

// Difference reports that this host and another one have different policies. It is an item of [Ready].Reports: once for each
// policy of the other host, and again whenever this host becomes active after the other one.
type Difference struct {
	Self, Host resolver.Host // this host and the other one
	Own, Other Policy
	TookOver   bool // this host has become active after the other one
}

// Error describes the difference, its consequences, and the remedy.
func (d *Difference) Error() string {
	var numbers, effects []string
	note := func(field string, own, other uint64, effect string) {
		if own == other {
			return
		}
		numbers = append(numbers, fmt.Sprintf("%s is %d on host %s and %d on host %s", field, own, d.Self.ID, other, d.Host.ID))
		weak, less, more := d.Self.ID, own, other
		if other < own {
			weak, less, more = d.Host.ID, other, own
		}
		effects = append(effects, fmt.Sprintf("while host %s is active, "+effect, weak, less, more))
	}
	note("Policy.MinInSync", d.Own.MinInSync, d.Other.MinInSync,
		"the minimum number of hosts that hold an acknowledged command is %d, not %d")
	note("Policy.Copies", d.Own.Copies, d.Other.Copies, "the wanted number of copies is %d, not %d")
	text := strings.Join(numbers, ", ") + "; " + strings.Join(effects, "; ") + "; the hosts of a service need equal policies"
	if d.TookOver {
		text = fmt.Sprintf("host %s, now active after host %s, has another policy: %s", d.Self.ID, d.Host.ID, text)
	}
	return text
}

// maxDifferences limits the other hosts' policies that a host remembers.
const maxDifferences = 64

// policy is this host's own policy.
func (c *Core) policy() Policy {
	return Policy{Copies: uint64(c.cfg.Standbys) + 1, MinInSync: uint64(max(c.cfg.MinInSync, 1))}
}

// putPolicy adds this host's policy to a message.
func (c *Core) putPolicy(m *Msg) {
	p := c.policy()
	m.Prev, m.PrevEpoch = p.Copies, p.MinInSync
}

// recvPolicy compares the policy in a message with this host's own, and reports whether they differ. An older version sends
// none.
func (c *Core) recvPolicy(m Msg) bool {
	other := Policy{Copies: m.Prev, MinInSync: m.PrevEpoch}
	if other.Copies == 0 || m.Type == MsgPolicy && (!c.role.Active() || c.peer(m.From) == nil) {
		return false
	}
	d := Difference{Self: c.self, Host: m.From, Own: c.policy(), Other: other}
	i := slices.IndexFunc(c.differences, func(o Difference) bool { return o.Host.ID == m.From.ID })
	known := i >= 0 && c.differences[i].Other == other
	if i >= 0 {
		c.differences = slices.Delete(c.differences, i, i+1)
	}
	if d.Own == d.Other {
		return false
	}
	if len(c.differences) >= maxDifferences {
		c.differences = slices.Delete(c.differences, 0, 1)
	}
	c.differences = append(c.differences, d)
	if !known {
		c.out.Reports = append(c.out.Reports, &d)
	}
	return true
}

// comparePolicy handles the active host's policy: it answers with this host's own if they differ.
func (c *Core) comparePolicy(m Msg) {
	if c.recvPolicy(m) {
		answer := Msg{Type: MsgPolicy}
		c.putPolicy(&answer)
		c.send(m.From, answer)
	}
}

// reportPredecessor reports, on a host that becomes active after another one, a difference of their policies.
func (c *Core) reportPredecessor(h resolver.Host) {
	for _, d := range c.differences {
		if d.Host.ID == h.ID && h.ID != "" {
			d.TookOver = true
			c.out.Reports = append(c.out.Reports, &d)
		}
	}
}
