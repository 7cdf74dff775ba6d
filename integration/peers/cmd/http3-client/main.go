// A client of HTTP/3 (quic-go): one request, told about in JSON. It may move to other local ports while the answer comes, by
// the book: a new path is probed, then taken.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

type told struct {
	Status   int         `json:"status"`
	Proto    string      `json:"proto"`
	Headers  http.Header `json:"headers"`
	Trailers http.Header `json:"trailers"`
	Bytes    int64       `json:"bytes"`
	Body     string      `json:"body"`
	Moves    int         `json:"moves"`
	Local    []string    `json:"local"`
}

// pattern is what is uploaded: zeros.
type pattern struct{}

func (pattern) Read(room []byte) (int, error) {
	clear(room)
	return len(room), nil
}

func main() {
	connect := flag.String("connect", "", "ADDRESS:PORT")
	host := flag.String("host", "", "server name and authority")
	method := flag.String("method", "GET", "")
	path := flag.String("path", "/", "")
	upload := flag.Int64("upload", 0, "bytes to send")
	trailer := flag.String("trailer", "", "value of the trailer x-sum; without a Content-Length then")
	moves := flag.Int("moves", 0, "how often to move to another port")
	flag.Parse()
	if err := run(*connect, *host, *method, *path, *upload, *trailer, *moves); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func socket() (*quic.Transport, error) {
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		return nil, err
	}
	return &quic.Transport{Conn: udp}, nil
}

func run(connect, host, method, path string, upload int64, trailer string, moves int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	address, err := net.ResolveUDPAddr("udp4", connect)
	if err != nil {
		return err
	}
	first, err := socket()
	if err != nil {
		return err
	}
	// Whose certificate it is, others look at.
	config := &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{http3.NextProtoH3}}
	connection, err := first.Dial(ctx, address, config, &quic.Config{})
	if err != nil {
		return err
	}
	client := (&http3.Transport{}).NewClientConn(connection)
	var body io.Reader
	if upload > 0 {
		body = io.LimitReader(pattern{}, upload)
	}
	request, err := http.NewRequestWithContext(ctx, method, "https://"+host+path, body)
	if err != nil {
		return err
	}
	request.ContentLength = upload
	if trailer != "" {
		request.ContentLength = -1
		request.Trailer = http.Header{"X-Sum": {trailer}}
	}
	response, err := client.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	said := told{Status: response.StatusCode, Proto: response.Proto, Headers: response.Header}
	said.Local = append(said.Local, connection.LocalAddr().String())
	var kept []byte
	room := make([]byte, 64<<10)
	step := max(response.ContentLength/int64(moves+1), 1)
	for {
		count, err := response.Body.Read(room)
		said.Bytes += int64(count)
		if len(kept) < 4096 {
			kept = append(kept, room[:count]...)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if said.Moves < moves && said.Bytes > step*int64(said.Moves+1) {
			next, err := socket()
			if err != nil {
				return err
			}
			way, err := connection.AddPath(next)
			if err != nil {
				return err
			}
			if err := way.Probe(ctx); err != nil {
				return fmt.Errorf("probe %d: %w", said.Moves, err)
			}
			if err := way.Switch(); err != nil {
				return err
			}
			said.Moves++
			said.Local = append(said.Local, next.Conn.LocalAddr().String())
		}
	}
	said.Body, said.Trailers = string(kept), response.Trailer
	client.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	return json.NewEncoder(os.Stdout).Encode(said)
}
