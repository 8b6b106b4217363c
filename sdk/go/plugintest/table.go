package plugintest

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"tidegate/plugin"
)

const (
	overhead = 128
	maxKey   = 256
	maxValue = 64 << 10
)

// Entry is one of the plugin's table.
type Entry struct {
	Value string
	// TTL is the time to live that it was given; 0 for good.
	TTL time.Duration
}

// table behaves as the gateway's.
type table struct{ host *Host }

func (table table) Get(key string) ([]byte, bool, error) {
	if err := check(key, nil); err != nil {
		return nil, false, err
	}
	entry, found := table.host.Table[key]
	return []byte(entry.Value), found, nil
}

func (table table) Set(key string, value []byte, ttl time.Duration) error {
	if err := check(key, value); err != nil {
		return err
	}
	taken := 0
	for other, entry := range table.host.Table {
		taken += size(other, entry.Value)
	}
	growth := size(key, string(value))
	if before, found := table.host.Table[key]; found {
		growth -= size(key, before.Value)
	}
	if growth > 0 && table.host.TableBytes > 0 && taken+growth > table.host.TableBytes {
		return plugin.ErrQuotaExceeded
	}
	if table.host.Table == nil {
		table.host.Table = make(map[string]Entry)
	}
	table.host.Table[key] = Entry{string(value), ttl}
	return nil
}

func (table table) Add(key string, value []byte, ttl time.Duration) (bool, error) {
	if _, found := table.host.Table[key]; found {
		return false, check(key, value)
	}
	err := table.Set(key, value, ttl)
	return err == nil, err
}

func (table table) Delete(key string) (bool, error) {
	if err := check(key, nil); err != nil {
		return false, err
	}
	_, found := table.host.Table[key]
	delete(table.host.Table, key)
	return found, nil
}

func (table table) Increment(key string, by int64, ttl time.Duration) (int64, error) {
	before, found := table.host.Table[key]
	number := int64(0)
	if found {
		parsed, err := strconv.ParseInt(before.Value, 10, 64)
		if err != nil || strconv.FormatInt(parsed, 10) != before.Value {
			return 0, plugin.ErrNotANumber
		}
		number, ttl = parsed, before.TTL
	}
	if (by > 0 && number > math.MaxInt64-by) || (by < 0 && number < math.MinInt64-by) {
		return 0, plugin.ErrNotANumber
	}
	sum := number + by
	return sum, table.Set(key, strconv.AppendInt(nil, sum, 10), ttl)
}

func check(key string, value []byte) error {
	if len(key) < 1 || len(key) > maxKey || strings.ContainsFunc(key, unicode.IsControl) || len(value) > maxValue {
		return plugin.ErrTooLarge
	}
	return nil
}

func size(key, value string) int {
	return len(key) + len(value) + overhead
}
