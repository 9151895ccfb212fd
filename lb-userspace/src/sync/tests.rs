mod sim;
mod wire;
