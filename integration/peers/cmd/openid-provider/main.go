// An OpenID provider for the tests: zitadel/oidc, which is certified as one, with its example storage. It can be told over
// HTTP to rotate its keys, and to be slow, broken or gone.
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// provider is the example storage with keys that rotate and tokens that live as long as the test says.
type provider struct {
	*storage.Storage
	lifetime time.Duration
	skew     time.Duration
	mutex    sync.Mutex
	current  *signingKey
	refresh  atomic.Int64
}

type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

func (k *signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k *signingKey) Algorithm() jose.SignatureAlgorithm          { return jose.RS256 }
func (k *signingKey) Use() string                                 { return "sig" }
func (k *signingKey) ID() string                                  { return k.id }
func (k *signingKey) Key() any                                    { return k.key }

type publicKey struct{ *signingKey }

func (k publicKey) Key() any { return &k.key.PublicKey }

func (p *provider) rotate() {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		log.Fatal(err)
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.current = &signingKey{id: uuid.NewString(), key: key}
}

func (p *provider) key() *signingKey {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.current
}

func (p *provider) SigningKey(context.Context) (op.SigningKey, error) { return p.key(), nil }

func (p *provider) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey{p.key()}}, nil
}

func (p *provider) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

func (p *provider) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, current string) (string, string, time.Time, error) {
	if current != "" {
		p.refresh.Add(1)
	}
	id, refresh, _, err := p.Storage.CreateAccessAndRefreshTokens(ctx, request, current)
	return id, refresh, time.Now().Add(p.lifetime), err
}

func (p *provider) CreateAccessToken(ctx context.Context, request op.TokenRequest) (string, time.Time, error) {
	id, _, err := p.Storage.CreateAccessToken(ctx, request)
	return id, time.Now().Add(p.lifetime), err
}

// client is a client of the example with a clock that is off.
type client struct {
	op.Client
	lifetime time.Duration
	skew     time.Duration
}

func (c client) IDTokenLifetime() time.Duration { return c.lifetime + c.skew }
func (c client) ClockSkew() time.Duration       { return -c.skew }

func (p *provider) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	found, err := p.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return client{found, p.lifetime, p.skew}, nil
}

func main() {
	issuer := flag.String("issuer", "", "the issuer, with its path")
	listen := flag.String("listen", "", "where to listen")
	certificate := flag.String("certificate", "", "PEM; without one it speaks plain HTTP")
	key := flag.String("key", "", "PEM")
	id := flag.String("client", "edge", "the client")
	secret := flag.String("secret", "", "its secret")
	redirects := flag.String("redirects", "", "its redirect URLs, by commas")
	lifetime := flag.Duration("lifetime", time.Hour, "of tokens")
	skew := flag.Duration("skew", 0, "how far the clock of its ID tokens is ahead")
	flag.Parse()
	if os.Getenv("DEBUG") == "" {
		slog.SetLogLoggerLevel(slog.LevelError)
	}

	storage.RegisterClients(storage.WebClient(*id, *secret, strings.Split(*redirects, ",")...))
	p := &provider{Storage: storage.NewStorage(storage.NewUserStore(*issuer)), lifetime: *lifetime, skew: *skew}
	p.rotate()
	at, err := url.Parse(*issuer)
	if err != nil {
		log.Fatal(err)
	}
	quiet := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	router := exampleop.SetupServer(*issuer, p, quiet, false)
	prefix := strings.TrimSuffix(at.Path, "/")

	var mode atomic.Value
	mode.Store("well")
	var tokens atomic.Int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if what, ok := strings.CutPrefix(r.URL.Path, "/control/"); ok {
			switch what {
			case "rotate":
				p.rotate()
			case "counts":
				fmt.Fprintf(w, "tokens %d refreshes %d\n", tokens.Load(), p.refresh.Load())
			default:
				mode.Store(what)
			}
			return
		}
		// People still see the login; what Edge asks is what fails.
		isAsked := strings.HasSuffix(r.URL.Path, "/oauth/token") || strings.HasSuffix(r.URL.Path, "/keys") ||
			strings.HasSuffix(r.URL.Path, "/openid-configuration")
		if strings.HasSuffix(r.URL.Path, "/oauth/token") {
			tokens.Add(1)
		}
		if isAsked {
			switch mode.Load() {
			case "slow":
				select {
				case <-time.After(time.Minute):
				case <-r.Context().Done():
				}
				return
			case "garbage":
				w.Write([]byte("<html>nothing of use</html>"))
				return
			case "broken":
				http.Error(w, "broken", http.StatusInternalServerError)
				return
			}
		}
		if prefix != "" && strings.HasPrefix(r.URL.Path, prefix+"/") {
			http.StripPrefix(prefix, router).ServeHTTP(w, r)
			return
		}
		router.ServeHTTP(w, r)
	})
	server := &http.Server{Addr: *listen, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	fmt.Println("ready")
	if *certificate != "" {
		log.Fatal(server.ListenAndServeTLS(*certificate, *key))
	}
	log.Fatal(server.ListenAndServe())
}
