// SPDX-License-Identifier: Apache-2.0

package proxyconfig

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Value is one field of a configuration as the value of a flag. It implements
// pflag.Value.
type Value struct{ to reflect.Value }

// NewValue returns the value of c at the path of a Served or Needless field. It
// panics if the type has no such field, or one that is no flag's.
func NewValue(c *Configuration, path string) *Value {
	v := &Value{at(reflect.ValueOf(c).Elem(), path)}
	v.Type() // panics where Set would
	return v
}

// at returns the field of a struct that JSON names by the path.
func at(v reflect.Value, path string) reflect.Value {
	name, rest, more := strings.Cut(path, ".")
	for i := range v.NumField() {
		if tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); tag != name {
			continue
		}
		if more {
			return at(v.Field(i), rest)
		}
		return v.Field(i)
	}
	panic("no field " + path)
}

// String writes the value as Set reads it; of one that is not there "".
func (v *Value) String() string {
	if !v.to.IsValid() { // pflag asks a zero Value
		return ""
	}
	to := v.to
	if to.Kind() == reflect.Pointer {
		if to.IsNil() {
			return ""
		}
		to = to.Elem()
	}
	switch x := to.Interface().(type) {
	case metav1.Duration:
		return x.Duration.String()
	case []string:
		return strings.Join(x, ",")
	}
	return fmt.Sprint(to.Interface())
}

// Type names it as pflag does, for help.
func (v *Value) Type() string {
	of := v.to.Type()
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	switch {
	case of == reflect.TypeFor[metav1.Duration]():
		return "duration"
	case of == reflect.TypeFor[[]string]():
		return "strings"
	}
	switch of.Kind() {
	case reflect.String, reflect.Bool, reflect.Int32, reflect.Uint32, reflect.Float32:
		return of.Kind().String()
	}
	panic(fmt.Sprintf("a field of type %s is no flag's", of))
}

// Set reads text; a list is added to. The field is as before if it cannot be read.
func (v *Value) Set(text string) error {
	to := v.to
	if to.Kind() == reflect.Pointer {
		to = reflect.New(to.Type().Elem()).Elem()
	}
	if err := set(to, text); err != nil {
		return err
	}
	if v.to.Kind() == reflect.Pointer {
		v.to.Set(to.Addr())
	}
	return nil
}

// Replace is Set, but a list is replaced.
func (v *Value) Replace(text string) error {
	before := reflect.New(v.to.Type()).Elem()
	before.Set(v.to)
	v.to.SetZero()
	err := v.Set(text)
	if err != nil {
		v.to.Set(before)
	}
	return err
}

func set(to reflect.Value, text string) error {
	switch to.Interface().(type) {
	case metav1.Duration:
		var d metav1.Duration
		if err := d.UnmarshalJSON([]byte(strconv.Quote(text))); err != nil {
			return err
		}
		to.Set(reflect.ValueOf(d))
		return nil
	case []string:
		if text != "" {
			to.Set(reflect.AppendSlice(to, reflect.ValueOf(strings.Split(text, ","))))
		}
		return nil
	}
	var err error
	switch to.Kind() {
	case reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(text)
		to.SetBool(b && err == nil)
	case reflect.Int32:
		var n int64
		if n, err = strconv.ParseInt(text, 0, 32); err == nil {
			to.SetInt(n)
		}
	case reflect.Uint32:
		var n uint64
		if n, err = strconv.ParseUint(text, 0, 32); err == nil {
			to.SetUint(n)
		}
	case reflect.Float32:
		var f float64
		if f, err = strconv.ParseFloat(text, 32); err == nil {
			to.SetFloat(f)
		}
	default: // a string: Type has seen to that
		to.SetString(text)
	}
	return err
}
