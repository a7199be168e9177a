//! The answers of operations that answer alike: one list of problems for each kind of operation.

/// Answers of an operation, by kind: operators `read` one thing, `list` many, `act` on one; clients
/// read one thing (`client_read`) and list many (`client_list`).
macro_rules! answers {
    (@enum $(#[$doc:meta])* $name:ident, $(#[$ok_doc:meta])* $ok:ident($payload:ty);
        $($(#[$problem_doc:meta])* $problem:ident = $status:literal),+) => {
        $(#[$doc])*
        #[derive(poem_openapi::ApiResponse)]
        #[allow(clippy::large_enum_variant)] // One lives for a moment in each request.
        pub enum $name {
            $(#[$ok_doc])*
            #[oai(status = 200)]
            $ok(poem_openapi::payload::Json<$payload>),
            $(
                $(#[$problem_doc])*
                #[oai(status = $status)]
                $problem(crate::http::problem::ProblemJson),
            )+
        }
    };
    (list $(#[$doc:meta])* $name:ident { $(#[$ok_doc:meta])* $ok:ident($payload:ty) }) => {
        answers!(@enum $(#[$doc])* $name, $(#[$ok_doc])* $ok($payload);
            /// No or a wrong token.
            Unauthorized = 401,
            /// A client's key.
            Forbidden = 403,
            /// A parameter is wrong.
            Invalid = 422,
            /// There is too much to do, or the database is away.
            Unavailable = 503);
    };
    (read $(#[$doc:meta])* $name:ident { $(#[$ok_doc:meta])* $ok:ident($payload:ty) }) => {
        answers!(@enum $(#[$doc])* $name, $(#[$ok_doc])* $ok($payload);
            /// No or a wrong token.
            Unauthorized = 401,
            /// A client's key.
            Forbidden = 403,
            /// There is none with this id.
            NotFound = 404,
            /// A parameter is wrong.
            Invalid = 422,
            /// There is too much to do, or the database is away.
            Unavailable = 503);
    };
    (act $(#[$doc:meta])* $name:ident { $(#[$ok_doc:meta])* $ok:ident($payload:ty) }) => {
        answers!(@enum $(#[$doc])* $name, $(#[$ok_doc])* $ok($payload);
            /// The body is no JSON object.
            BadRequest = 400,
            /// No or a wrong token.
            Unauthorized = 401,
            /// A client's key.
            Forbidden = 403,
            /// There is none with this id.
            NotFound = 404,
            /// The body did not come in time.
            TimedOut = 408,
            /// It cannot be done as things are; nothing was done.
            Conflict = 409,
            /// The body is too long.
            TooLarge = 413,
            /// The body is not declared as JSON.
            UnsupportedMediaType = 415,
            /// A field or parameter is wrong or unknown.
            Invalid = 422,
            /// There is too much to do, or the database is away; nothing was done, or all of it.
            Unavailable = 503);
    };
    (client_list $(#[$doc:meta])* $name:ident { $(#[$ok_doc:meta])* $ok:ident($payload:ty) }) => {
        answers!(@enum $(#[$doc])* $name, $(#[$ok_doc])* $ok($payload);
        /// No or a wrong API key.
        Unauthorized = 401,
        /// A parameter is wrong.
        Invalid = 422,
        /// You send more requests than you may: wait for `Retry-After` seconds.
        TooManyRequests = 429,
        /// There is too much to do, or the database is away: try again after `Retry-After` seconds.
        Unavailable = 503);
    };
    (client_read $(#[$doc:meta])* $name:ident { $(#[$ok_doc:meta])* $ok:ident($payload:ty) }) => {
        answers!(@enum $(#[$doc])* $name, $(#[$ok_doc])* $ok($payload);
        /// No or a wrong API key.
        Unauthorized = 401,
        /// You have no transaction with this id.
        NotFound = 404,
        /// A parameter is wrong.
        Invalid = 422,
        /// You send more requests than you may: wait for `Retry-After` seconds.
        TooManyRequests = 429,
        /// There is too much to do, or the database is away: try again after `Retry-After` seconds.
        Unavailable = 503);
    };
}
pub(in crate::http) use answers;
