//go:build wasip1

package abi

import (
	"math"
	"time"

	"tidegate/plugin"
)

//go:wasmimport tidegate:plugin/hmac@1.1.0 verify
func hmacVerify(algorithm, name, nameLength, message, messageLength, tag, tagLength, answer uint32)

//go:wasmimport tidegate:plugin/kv@1.1.0 get
func kvGet(key, keyLength, answer uint32)

//go:wasmimport tidegate:plugin/kv@1.1.0 set
func kvSet(key, keyLength, value, valueLength, hasTTL, ttl, answer uint32)

//go:wasmimport tidegate:plugin/kv@1.1.0 add
func kvAdd(key, keyLength, value, valueLength, hasTTL, ttl, answer uint32)

//go:wasmimport tidegate:plugin/kv@1.1.0 delete
func kvDelete(key, keyLength, answer uint32)

//go:wasmimport tidegate:plugin/kv@1.1.0 increment
func kvIncrement(key, keyLength uint32, by int64, hasTTL, ttl, answer uint32)

// HMACVerify asks the gateway.
func (Gateway) HMACVerify(algorithm plugin.Algorithm, secretName string, message, tag []byte) (bool, bool) {
	answer, name, signed, given := new(short), lowerText(secretName), lower(message), lower(tag)
	hmacVerify(
		uint32(algorithm), name.Address, name.Length, signed.Address, signed.Length, given.Address, given.Length, Address(answer),
	)
	return answer.second != 0, answer.first != 0
}

// KV is the table.
func (Gateway) KV() plugin.KV { return table{} }

type table struct{}

// short is an answer of two bytes: whether there is one, or it was refused; and what it is.
type short struct{ first, second uint8 }

type found struct {
	refused uint8
	value   optional
}

type sum struct {
	refused uint8
	number  int64
}

// Get asks the gateway, as do the others.
func (table) Get(key string) ([]byte, bool, error) {
	answer, name := new(found), lowerText(key)
	kvGet(name.Address, name.Length, Address(answer))
	some := uint8(answer.value.some)
	if answer.refused != 0 {
		return nil, false, refusal(some)
	}
	return answer.value.value.bytes(), some != 0, nil
}

func (table) Set(key string, value []byte, ttl time.Duration) error {
	answer, name, held := new(short), lowerText(key), lower(value)
	has, length := seconds(ttl)
	kvSet(name.Address, name.Length, held.Address, held.Length, has, length, Address(answer))
	if answer.first != 0 {
		return refusal(answer.second)
	}
	return nil
}

func (table) Add(key string, value []byte, ttl time.Duration) (bool, error) {
	answer, name, held := new(short), lowerText(key), lower(value)
	has, length := seconds(ttl)
	kvAdd(name.Address, name.Length, held.Address, held.Length, has, length, Address(answer))
	return changed(answer)
}

func (table) Delete(key string) (bool, error) {
	answer, name := new(short), lowerText(key)
	kvDelete(name.Address, name.Length, Address(answer))
	return changed(answer)
}

func (table) Increment(key string, by int64, ttl time.Duration) (int64, error) {
	answer, name := new(sum), lowerText(key)
	has, length := seconds(ttl)
	kvIncrement(name.Address, name.Length, by, has, length, Address(answer))
	if answer.refused != 0 {
		return 0, refusal(uint8(answer.number))
	}
	return answer.number, nil
}

func changed(answer *short) (bool, error) {
	if answer.first != 0 {
		return false, refusal(answer.second)
	}
	return answer.second != 0, nil
}

// seconds is a time to live as the WIT has it: whether there is one, and how long it is.
func seconds(ttl time.Duration) (has, seconds uint32) {
	if ttl == 0 {
		return 0, 0
	}
	whole := (ttl + time.Second - 1) / time.Second
	return 1, uint32(min(max(whole, 1), math.MaxUint32))
}

func refusal(reason uint8) error {
	return [...]error{plugin.ErrQuotaExceeded, plugin.ErrNotANumber, plugin.ErrTooLarge, plugin.ErrNoTable}[reason]
}
