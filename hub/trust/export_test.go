package trust

// Origin is what a built-in certificate's file says of itself.
var Origin = origin
