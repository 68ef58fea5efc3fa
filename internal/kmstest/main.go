// Command kmstest runs Local KMS on loopback, for the tests of cmd/gangway-signer. Local KMS
// answers like AWS KMS, and makes real keys and signatures. The command `kmstest FOLDER` stores the
// keys in the folder, and prints the URL of Local KMS. The tests do not use Local KMS's own
// program, because that program listens on all addresses.
//
// The command is a separate module, so that Gangway does not depend on Local KMS.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	kms "github.com/nsmithuk/local-kms/src"
	"github.com/nsmithuk/local-kms/src/config"
	"github.com/nsmithuk/local-kms/src/data"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: kmstest FOLDER")
	}
	config.AWSAccountId, config.AWSRegion = "111122223333", "eu-central-1"
	database := data.NewDatabase(os.Args[1])
	defer database.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("http://%s\n", l.Addr())
	log.Fatal(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { kms.HandleRequest(w, r, database) })))
}
