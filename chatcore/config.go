package chatcore

import (
	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// Config sets the limits of a room. The limits are part of the room's state: a room that moves to another host keeps them
// and ignores that host's Config.
type Config struct {
	// MinParticipants is the number of distinct participants that must join before the chat begins. Until then the room
	// holds messages. Each key (each name if the transport proves no keys) counts once: leaving does not lower the count,
	// and joining again does not raise it. It defaults to 0, which begins the chat at once. The maximum is 10,000.
	MinParticipants int

	// HistoryCount and HistoryBytes bound the recent messages kept for new participants. The size of a message is the length
	// of sender and text plus 32 bytes. They default to 100 and 64 KiB; the maximum is 10,000 and 512 KiB. Set HistoryCount
	// to [NoHistory] to keep none.
	HistoryCount, HistoryBytes int

	// HeldCount and HeldBytes bound the messages held until the chat begins, with sizes as in the history. They default to
	// 1,000 and 256 KiB; the maximum is 10,000 and 16 MiB.
	HeldCount, HeldBytes int

	// MaxName is the maximum length of a name in characters. It defaults to 32; the maximum is 64.
	MaxName int

	// MaxText is the maximum size of a message text in bytes. It defaults to 4 KiB; the maximum is 64 KiB.
	MaxText int

	// MaxParticipants is the maximum number of participants in the room at a time. It defaults to 10,000; the maximum is
	// 100,000.
	MaxParticipants int

	// MaxPerKey is the maximum number of participants in the room at a time that joined with the same key. Participants
	// without a key are not limited by it. It defaults to 64; the maximum is 100,000.
	MaxPerKey int
}

const defaultMaxPerKey = 64

// NoHistory disables the history when used as [Config.HistoryCount]: new participants see no earlier messages.
const NoHistory = -1

// maxAddr is the maximum size in bytes of the address of a participant's listener.
const maxAddr = 256

// New returns a factory of chat rooms for a host. Each room it creates is empty until it is restored from a snapshot.
// If a field of cfg is invalid, New returns an [ErrConfig] that names the field.
func New(cfg Config) (func() migrate.Migratable, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return func() migrate.Migratable { return newRoom(cfg) }, nil
}

// withDefaults sets the defaults of zero fields and validates all fields.
func (c Config) withDefaults() (Config, error) {
	for _, f := range []struct {
		name          string
		v             *int
		def, min, max int
	}{
		{"MaxParticipants", &c.MaxParticipants, 10_000, 1, 100_000},
		{"MinParticipants", &c.MinParticipants, 0, 0, 10_000},
		{"HistoryCount", &c.HistoryCount, 100, NoHistory, 10_000},
		{"HistoryBytes", &c.HistoryBytes, 64 << 10, 1, 512 << 10},
		{"HeldCount", &c.HeldCount, 1_000, 1, 10_000},
		{"HeldBytes", &c.HeldBytes, 256 << 10, 1, 16 << 20},
		{"MaxName", &c.MaxName, 32, 1, 64},
		{"MaxText", &c.MaxText, 4 << 10, 1, 64 << 10},
		{"MaxPerKey", &c.MaxPerKey, defaultMaxPerKey, 1, 100_000},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
		if *f.v < f.min || *f.v > f.max {
			return c, transport.Errorf(CodeConfig, "chat: Config.%s is %d, want %d to %d", f.name, *f.v, f.min, f.max)
		}
	}
	return c, nil
}
