# Source this in bash: `source scripts/env.sh`. It makes the checkout's .venv and install/ usable: python, gridkp,
# ROS 2's libraries (from the wheels in .venv where no ROS 2 is sourced) and a DDS transport that does not lose images.

_gridkp_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export VIRTUAL_ENV="$_gridkp_root/.venv"
case ":$PATH:" in
  *":$VIRTUAL_ENV/bin:"*) ;;
  *) export PATH="$VIRTUAL_ENV/bin:$PATH" ;;
esac

if [ -d "$VIRTUAL_ENV/share/rcl" ]; then # ROS 2 as wheels: the virtual environment is the ROS prefix
  case ":${AMENT_PREFIX_PATH:-}:" in
    *":$VIRTUAL_ENV:"*) ;;
    *)
      export AMENT_PREFIX_PATH="$VIRTUAL_ENV${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}"
      export CMAKE_PREFIX_PATH="$VIRTUAL_ENV${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}"
      export LD_LIBRARY_PATH="$VIRTUAL_ENV/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
      ;;
  esac
  export ROS_VERSION="${ROS_VERSION:-2}"
fi

if [ -f "$_gridkp_root/install/local_setup.bash" ]; then
  # shellcheck disable=SC1091
  source "$_gridkp_root/install/local_setup.bash"
fi

# An image is larger than Fast DDS's default shared-memory segment and most are lost without a larger one. What the user
# has chosen stays (as in gridkp_ros/node/transport.py).
if [ -z "${FASTDDS_DEFAULT_PROFILES_FILE:-}${FASTRTPS_DEFAULT_PROFILES_FILE:-}${FASTDDS_BUILTIN_TRANSPORTS:-}" ]; then
  case "${ROS_DISTRO:-}" in
    humble | iron | jazzy) export FASTRTPS_DEFAULT_PROFILES_FILE="$_gridkp_root/config/fastdds_large_images.xml" ;;
    *) export FASTDDS_DEFAULT_PROFILES_FILE="$_gridkp_root/config/fastdds_large_images.xml" ;;
  esac
fi
unset _gridkp_root
