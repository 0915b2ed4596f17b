// SPDX-License-Identifier: Apache-2.0

package nlx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Socket names one socket of a network namespace. The cookie alone would; the
// kernel finds it by the rest.
type Socket struct {
	Cookie   uint64
	Family   uint8 // AF_INET or AF_INET6
	Protocol uint8 // IPPROTO_TCP or IPPROTO_UDP
	// Local and Remote are as the kernel has them: those of a socket of AF_INET6
	// may be mapped IPv4 addresses.
	Local, Remote netip.AddrPort
	Device        uint32 // to which it is bound; 0: to none
}

// ErrNoDestroy says that the kernel was built without CONFIG_INET_DIAG_DESTROY.
var ErrNoDestroy = errors.New("the kernel cannot end sockets of others: it lacks CONFIG_INET_DIAG_DESTROY, or the module udp_diag or tcp_diag")

// DestroySockets aborts connections of a network namespace, named by its inode
// number: the next call of whoever has such a socket fails with ECONNABORTED, and
// it is connected no more. It returns how many it ended: what is not connected so
// is left. Without CAP_NET_ADMIN over the namespace, and CAP_SYS_ADMIN to enter
// another one, the error is EPERM; ErrNoNamespace if nothing leads there. It goes
// on after errors with one socket.
func DestroySockets(namespace uint64, list []Socket) (ended int, err error) {
	ns, err := findNamespace(namespace)
	if err != nil {
		return 0, fmt.Errorf("open network namespace %d: %w", namespace, err)
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	err = within(ns, func() error {
		var errs []error
		for i := range list {
			switch err := destroy(&list[i]); {
			case err == nil:
				ended++
			case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE):
			case errors.Is(err, unix.EOPNOTSUPP):
				return ErrNoDestroy
			default:
				errs = append(errs, fmt.Errorf("end the socket from %v to %v: %w", list[i].Local, list[i].Remote, err))
			}
		}
		return errors.Join(errs...)
	})
	return ended, err
}

// destroy asks for it in the calling thread's network namespace.
func destroy(s *Socket) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddRawData(s.request())
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}

// request is struct inet_diag_req_v2 of linux/inet_diag.h.
func (s *Socket) request() []byte {
	b := make([]byte, 0, 56)
	b = append(b, s.Family, s.Protocol, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, 0xffffffff) // in whatever state
	b = binary.BigEndian.AppendUint16(b, s.Local.Port())
	b = binary.BigEndian.AppendUint16(b, s.Remote.Port())
	for _, a := range []netip.Addr{s.Local.Addr(), s.Remote.Addr()} {
		addr := a.As16()
		if s.Family == unix.AF_INET {
			four := a.Unmap().As4()
			addr = [16]byte(append(four[:], make([]byte, 12)...))
		}
		b = append(b, addr[:]...)
	}
	b = binary.NativeEndian.AppendUint32(b, s.Device)
	b = binary.NativeEndian.AppendUint32(b, uint32(s.Cookie))
	return binary.NativeEndian.AppendUint32(b, uint32(s.Cookie>>32))
}
